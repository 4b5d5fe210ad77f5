"""Finished scores on disk: of this run, and of base models for all runs."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spectral_ft.errors import Damaged
from spectral_ft.evaluation.prepare import PreparedTask
from spectral_ft.fingerprint import text_fingerprint
from spectral_ft.storage import (
    AGAIN,
    manifest,
    read_json,
    read_jsonl,
    read_sealed,
    write_json,
    write_jsonl,
    write_sealed,
)
from spectral_ft.types import BenchmarkScore, Stage

log = logging.getLogger(__name__)
FORMAT = 2
"""Of the cached scores of base models; part of their names."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TaskScores:
    """All scores of one task, the leading one first, and every item."""

    scores: tuple[BenchmarkScore, ...]
    samples: list[dict[str, Any]]

    def of_stage(self, stage: Stage) -> "TaskScores":
        """Those of one stage.

        Args:
            stage: Base or tuned.

        Returns:
            Its scores and samples.
        """
        own = [row for row in self.samples if row["stage"] == stage]
        return TaskScores(tuple(score for score in self.scores if score.stage == stage), own)

    def with_more(self, other: "TaskScores") -> "TaskScores":
        """These, and then others of the same task.

        Args:
            other: They.

        Returns:
            Both.
        """
        return TaskScores((*self.scores, *other.scores), [*self.samples, *other.samples])


class ScoreFile:
    """`scores.json` and `samples/`: grows by a task at a time, each time whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "scores.json"

    def scores(self) -> tuple[BenchmarkScore, ...]:
        """Every finished score.

        Returns:
            Base before tuned, in the order of the tasks.
        """
        return read_json(self._path, tuple[BenchmarkScore, ...]) if self._path.exists() else ()

    def samples(self, task: str) -> list[dict[str, Any]]:
        """The items of a task.

        Args:
            task: Its name.

        Returns:
            A row for each item, stage and rule; none if the task is not finished.
        """
        path = self._samples(task)
        return read_jsonl(path) if path.exists() else []

    def forget_damaged(self) -> None:
        """Forget the tasks whose scores or items are damaged or lost, and say so: they are scored again.

        Raises:
            Damaged: If the manifest of the folder is.
        """
        manifest(self._folder)
        try:
            scores = self.scores()
        except Damaged as error:
            log.warning("%s All tasks are scored again now.", str(error).removesuffix(AGAIN).strip())
            scores = ()
            self._path.unlink()
        lost = {score.task: fault for score in scores if (fault := self._fault(score))}
        for task, fault in lost.items():
            log.warning("%s %s is scored again now.", fault, task)
            self._samples(task).unlink(missing_ok=True)
        if lost:
            write_json(self._path, [score for score in scores if score.task not in lost], home=self._folder)

    def _fault(self, score: BenchmarkScore) -> str | None:
        try:
            rows = self.samples(score.task)
        except Damaged as error:
            return str(error).removesuffix(AGAIN).strip()
        if any(row.get("stage") == score.stage for row in rows):
            return None
        return f"{self._samples(score.task)} holds no items of the {score.stage} model."

    def holds(self, stage: Stage, task: str) -> bool:
        """Whether a task is finished.

        Args:
            stage: Base or tuned.
            task: Its name.

        Returns:
            True if its scores are there.
        """
        return any(score.stage == stage and score.task == task for score in self.scores())

    def add(self, stage: Stage, finished: TaskScores) -> None:
        """Keep a finished task in the place of what was there of it: samples first, so that no score is without them.

        Args:
            stage: Base or tuned.
            finished: Its scores and samples.
        """
        task = finished.scores[0].task
        kept = [row for row in self.samples(task) if row["stage"] != stage]
        write_jsonl(self._samples(task), [*kept, *finished.samples], home=self._folder)
        others = [score for score in self.scores() if (score.stage, score.task) != (stage, task)]
        write_json(self._path, (*others, *finished.scores), home=self._folder)

    def _samples(self, task: str) -> Path:
        return self._folder / "samples" / f"{task}.jsonl"


class BaseScoreCache:
    """Scores of unadapted models, by model, precision, task, items and limit."""

    def __init__(self, folder: Path | None, *, model: str, precision: str) -> None:
        self._folder = folder
        self._key = f"{model} {precision}"

    def fetch(self, task: PreparedTask, *, asked: str, version: str, score: Callable[[], TaskScores]) -> TaskScores:
        """The scores of a task, computed once.

        Args:
            task: Prepared.
            asked: How many items are scored, and what else changes the answers.
            version: Of the harness.
            score: Computes them.

        Returns:
            Scores and samples.
        """
        if self._folder is None:
            return score()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{text_fingerprint(f'{FORMAT} {self._key} {task.fingerprint} {asked} {version}')}.json"
        with FileLock(path.with_suffix(".lock")):
            if path.exists():
                try:
                    return read_sealed(path, TaskScores)
                except Damaged:
                    log.warning("cached base score of %s is damaged; it is made again: %s", task.name, path)
            fresh = score()
            write_sealed(path, asdict(fresh), durable=False)
            return fresh
