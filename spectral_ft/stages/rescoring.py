"""Stored answers, read again by every rule that fits them: nothing is generated, no model is loaded."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectral_ft.errors import DataError, RunError
from spectral_ft.evaluation.records import ScoreFile, TaskScores
from spectral_ft.evaluation.rescoring import rescore
from spectral_ft.evaluation.rules import RULES, rules_of
from spectral_ft.experiment import Experiment
from spectral_ft.run_folder import claimed, mark_started
from spectral_ft.storage import read_jsonl
from spectral_ft.types import BenchmarkScore

log = logging.getLogger(__name__)


def rescored(experiment: Experiment, source: Path, folder: Path) -> tuple[BenchmarkScore, ...]:
    """Read the answers of a folder again.

    Args:
        experiment: Its identity and its configuration; of both, what is read counts.
        source: With `scores.json` and `samples/`; left as it is.
        folder: Gets the same, with the scores by every rule beside those that were there.

    Returns:
        The stored scores of the tasks that hold written answers, then those by every rule.

    Raises:
        DataError: If no task there holds written answers.
        RunError: If the source holds no scores, or is the folder; or the folder is in use, or holds another run.
    """
    if source.resolve() == folder.resolve():
        raise RunError(
            f"rescore={source} is the folder that the scores would be written to: give another hydra.run.dir."
        )
    found = _read_again(source)
    with claimed(folder, experiment.run_id):
        mark_started(folder, experiment.run_id, experiment.config)
        file = ScoreFile(folder)
        for one in found:
            for stage in dict.fromkeys(score.stage for score in one.scores):
                file.add(stage, one.of_stage(stage))
    return tuple(score for one in found for score in one.scores)


def _read_again(source: Path) -> list[TaskScores]:
    # For each task that holds written answers, what was there and what the rules say, of all stages.
    stored = ScoreFile(source).scores()
    if not stored:
        raise RunError(f"rescore={source} holds no scores.json: give the folder of a run or of an evaluation.")
    read = []
    for task in dict.fromkeys(score.task for score in stored):
        own = [score for score in stored if score.task == task]
        rows = _samples(source, task)
        written = [row for row in rows if row["response"] is not None and "logits" not in row]
        rules = _fitting(written)
        if not rules:
            log.info("samples of %s hold no written answers that a rule reads: they are left out", task)
            continue
        before = TaskScores(
            tuple(score for score in own if score.extractor not in rules),
            [row for row in rows if row["extractor"] not in rules],
        )
        read.append(before.with_more(rescore(written, rules, stored=own)))
    if not read:
        raise DataError(f"rescore={source}: no task there has written answers; only those can be read by other rules.")
    return read


def _samples(source: Path, task: str) -> list[dict[str, Any]]:
    path = source / "samples" / f"{task}.jsonl"
    if not path.exists():
        raise RunError(f"{path} does not exist, and the answers of {task} would be there: evaluate again.")
    return read_jsonl(path, way_out="Evaluate again.")


def _fitting(rows: Sequence[dict[str, Any]]) -> list[str]:
    # All rules that look for the kind of answer that is right here: every right answer is right when it is read.
    golds = {str(row["gold"]) for row in rows}
    kinds = dict.fromkeys(name.partition("_")[2] for name in RULES)
    for kind in kinds if golds else ():
        named = list(rules_of(kind).values())
        if all(_reads(named[0], gold) for gold in golds):
            return named
    return []


def _reads(rule: str, gold: str) -> bool:
    try:
        return RULES[rule](gold.rpartition("####")[2].strip() or gold, gold).right
    except ValueError:
        return False
