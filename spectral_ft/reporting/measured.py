"""What the runs of a table measured: of each arm and task the values by seed and item, and their mean and interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from spectral_ft.errors import DataError, RunError
from spectral_ft.reporting.records import RunFolder
from spectral_ft.reporting.samples import ItemValues, item_table, item_values, samples_file
from spectral_ft.reporting.score_table import ACCURACIES, counting_stage, leading, uncounted
from spectral_ft.statistics.intervals import wilson_interval
from spectral_ft.statistics.results import Estimate
from spectral_ft.statistics.seeds import mean_of_seeds, mean_over_seeds
from spectral_ft.types import BenchmarkScore


@dataclass(frozen=True)
class Measured:
    """The leading score of one task, of all finished runs of one arm."""

    metric: str
    extractor: str
    seeds: tuple[int | None, ...]
    """Ascending, as the rows of `values`."""
    values: np.ndarray | None
    """Shape (seeds, items), items as in every other arm's; None where there are no single items."""
    estimate: Estimate | None
    """Mean and interval; None for one number that has no interval."""
    value: float
    """The mean."""


def measured(runs: Sequence[RunFolder]) -> tuple[dict[tuple[str, str], Measured], list[str]]:
    """What runs measured on the tasks that they were scored on.

    Args:
        runs: Any; those without a record do not count.

    Returns:
        (arm, task) to what was measured after training (of the base where nothing was trained), the tasks in the order
        of the scores; and what is to be said of it: sentences.

    Raises:
        DataError: If a task was scored by different rules or on different items, or samples are damaged.
        RunError: If an arm has a seed twice.
    """
    arms = _by_arm(runs)
    scored = [(run, _leading(run)) for found in arms.values() for run in found]
    tasks = list(dict.fromkeys(task for _, scores in scored for task in scores))
    found: dict[tuple[str, str], Measured] = {}
    told = (uncounted(arm, [run.result for run in of_arm if run.result]) for arm, of_arm in arms.items())
    notes = [note for note in told if note]
    for task in tqdm(tasks, desc="reading items", unit="task", leave=False, disable=len(scored) < 10):
        having = [(run, scores[task]) for run, scores in scored if task in scores]
        _check_alike(task, having)
        table, note = _items(having)
        notes += [note] if note else []
        for arm in dict.fromkeys(run.arm for run, _ in having):
            places = [place for place, (run, _) in enumerate(having) if run.arm == arm]
            scores = [having[place][1] for place in places]
            values = None if table is None else table[places]
            estimate = _estimate(values, scores)
            found[arm, task] = Measured(
                scores[0].metric,
                scores[0].extractor,
                tuple(having[place][0].seed for place in places),
                values,
                estimate,
                estimate.value if estimate else scores[0].value,
            )
    return found, notes


def _by_arm(runs: Sequence[RunFolder]) -> dict[str, list[RunFolder]]:
    arms: dict[str, list[RunFolder]] = {}
    for run in sorted((run for run in runs if run.result), key=lambda run: (run.seed is None, run.seed)):
        others = arms.setdefault(run.arm, [])
        if others and others[-1].seed == run.seed:
            raise RunError(
                f"{others[-1].folder} and {run.folder} are both {run.arm} with seed {run.seed}: give one of them."
            )
        others.append(run)
    return arms


def _leading(run: RunFolder) -> dict[str, BenchmarkScore]:
    if run.result is None:
        return {}
    counts = counting_stage(run.result)
    return {task: score for (task, stage), score in leading(run.result.scores).items() if stage == counts}


def _check_alike(task: str, having: Sequence[tuple[RunFolder, BenchmarkScore]]) -> None:
    first, one = having[0]
    for run, score in having[1:]:
        where = f"{first.folder} and {run.folder} cannot stand in one table"
        if (rule := _rule(score)) != _rule(one):
            raise DataError(f"{where}: {task} was scored by {_rule(one)} and by {rule}; score both alike.")
        if score.n != one.n:
            raise DataError(f"{where}: {task} was scored on {one.n} and on {score.n} items; score both alike.")


def _rule(score: BenchmarkScore) -> str:
    return f"{score.metric} ({score.extractor}, {score.protocol}, {score.fewshot}-shot)"


def _items(having: Sequence[tuple[RunFolder, BenchmarkScore]]) -> tuple[np.ndarray | None, str | None]:
    # Shape (runs, items), or why there is none.
    folders: list[Path] = [run.folder for run, _ in having]
    for folder, (_, score) in zip(folders, having, strict=True):
        if not samples_file(folder, score.task).exists():
            return None, (
                f"{score.task}: {folder} has no samples, so intervals are over items or over seeds alone, and "
                "nothing is tested."
            )
    items = [item_values(folder, score) for folder, (_, score) in zip(folders, having, strict=True)]
    if reasons := [each for each in items if isinstance(each, str)]:
        return None, f"{reasons[0]} Its interval is over seeds alone, and nothing is tested."
    return item_table(folders, [each for each in items if isinstance(each, ItemValues)]), None


def _estimate(values: np.ndarray | None, scores: Sequence[BenchmarkScore]) -> Estimate | None:
    if values is not None:
        return mean_over_seeds(values)
    if len(scores) > 1:
        return mean_of_seeds([score.value for score in scores], items=scores[0].n)
    if scores[0].metric not in ACCURACIES:
        return None
    low, high = wilson_interval(scores[0].value, scores[0].n)
    return Estimate(scores[0].value, low, high, items=scores[0].n, seeds=1, over="items")
