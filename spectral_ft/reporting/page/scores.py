"""Scores with their intervals, over items and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from spectral_ft.errors import DataError
from spectral_ft.reporting.page.arms import Arm, run_name
from spectral_ft.reporting.records import RunFolder
from spectral_ft.reporting.samples import (
    ItemValues,
    Key,
    item_table,
    item_values,
    sample_rows,
    samples_file,
    stage_scores,
)
from spectral_ft.reporting.score_table import ACCURACIES, counting_stage, uncounted
from spectral_ft.statistics.intervals import wilson_interval
from spectral_ft.statistics.results import Difference
from spectral_ft.statistics.seeds import difference_over_seeds, mean_over_seeds
from spectral_ft.types import BenchmarkScore, Stage


@dataclass(frozen=True)
class Score:
    """One metric of one task for an arm, over its seeds."""

    key: Key
    arm: Arm
    stage: Stage
    value: float
    low: float | None
    """None where the items are not there, or the metric is no mean over them."""
    high: float | None
    items: int
    seeds: int
    shares: bool
    """Whether the value is a share of right answers."""
    values: np.ndarray | None
    """Shape (seeds, items), rows in the order of `runs`; None where the items are not there."""
    runs: tuple[RunFolder, ...]
    prompts: dict[int, str]
    """Item's id to the digest of its prompt, in the order of `values`."""

    @property
    def by_item(self) -> dict[int, np.ndarray]:
        """Item's id to its value in each seed; empty where the items are not there."""
        return {} if self.values is None else dict(zip(self.prompts, self.values.T, strict=True))


@dataclass(frozen=True)
class Scores:
    """All scores of all arms."""

    found: tuple[Score, ...]
    notes: tuple[str, ...]
    """Why a score has no interval, or does not count: sentences."""

    @property
    def keys(self) -> tuple[Key, ...]:
        """What was measured, the leading metric of each task first among its own."""
        return tuple(dict.fromkeys(score.key for score in self.found))

    @property
    def leading(self) -> tuple[Key, ...]:
        """The first metric of each task, which is the one that counts."""
        first: dict[str, Key] = {}
        for key in self.keys:
            first.setdefault(key[0], key)
        return tuple(first.values())

    def of(self, arm: Arm, key: Key, stage: Stage) -> Score | None:
        """One of them.

        Args:
            arm: Whose.
            key: Of what.
            stage: Base or tuned.

        Returns:
            The score, or None.
        """
        return next((s for s in self.found if s.arm is arm and s.key == key and s.stage == stage), None)

    def counting(self, arm: Arm, key: Key) -> Score | None:
        """The score that stands for an arm.

        Args:
            arm: Whose.
            key: Of what.

        Returns:
            After training; that of the base where nothing was trained.
        """
        results = [run.result for run in arm.finished if run.result]
        return self.of(arm, key, counting_stage(results[0])) if results else None


def scores_of(arms: Sequence[Arm]) -> Scores:
    """Read the scores of finished runs, and their items.

    Args:
        arms: With their runs; of two runs of one seed only the first counts.

    Returns:
        The scores; a run whose items are damaged still has its value.
    """
    found: list[Score] = []
    notes: dict[str, None] = {}
    stages: tuple[Stage, ...] = ("base", "tuned")
    for arm in tqdm(arms, desc="scores", unit="arm", leave=False):
        runs = _each_seed_once(arm, notes)
        if note := uncounted(arm.name, [run.result for run in runs if run.result]):
            notes[note] = None
        items = {run.folder: _items(run) for run in runs}
        for stage in stages:
            by_run = [(run, stage_scores(run.result.scores, stage)) for run in runs if run.result]
            for key in dict.fromkeys(key for _, scores in by_run for key in scores):
                having = [(run, scores[key]) for run, scores in by_run if key in scores]
                score, note = _score(arm, key, having, [items[run.folder][stage, key] for run, _ in having])
                found.append(score)
                if note:
                    notes[note] = None
    return Scores(tuple(found), tuple(notes))


def change(scores: Scores, arm: Arm, key: Key) -> Difference | None:
    """Fine-tuned less base, on the same items.

    Args:
        scores: All.
        arm: Whose.
        key: Of what.

    Returns:
        The difference over seeds and items; None where one stage or its items are missing, or there is one item.
    """
    tuned, base = scores.of(arm, key, "tuned"), scores.of(arm, key, "base")
    return None if tuned is None or base is None else difference(tuned, base)


def difference(first: Score, other: Score) -> Difference | None:
    """One score less another.

    Args:
        first: With items.
        other: Of the same metric and task.

    Returns:
        The difference over seeds and items; None where they have not the same items, or fewer than two.
    """
    if first.values is None or other.values is None or first.prompts != other.prompts or len(first.prompts) < 2:
        return None
    ids = list(other.prompts)
    values = (
        other.values[:, [ids.index(item) for item in first.prompts]] if ids != list(first.prompts) else other.values
    )
    same = [run.seed for run in first.runs] == [run.seed for run in other.runs]
    return difference_over_seeds(first.values, values, same_seeds=same)


def _each_seed_once(arm: Arm, notes: dict[str, None]) -> list[RunFolder]:
    # A seed twice would count as two, and intervals would be too narrow.
    first: dict[int | None, RunFolder] = {}
    for run in arm.finished:
        if run.seed in first:
            notes[f"{first[run.seed].folder} and {run.folder} are both {run_name(run)}: only the first counts."] = None
        else:
            first[run.seed] = run
    return list(first.values())


def _items(run: RunFolder) -> dict[tuple[Stage, Key], ItemValues | str]:
    # The values of each score, or why there are none; each file is read once.
    found: dict[tuple[Stage, Key], ItemValues | str] = {}
    rows: dict[str, list[dict[str, Any]] | str] = {}
    for score in run.result.scores if run.result else ():
        try:
            if score.task not in rows:
                rows[score.task] = sample_rows(samples_file(run.folder, score.task))
        except DataError as error:
            rows[score.task] = str(error)
        every, key = rows[score.task], (score.task, score.metric, score.extractor)
        try:
            found[score.stage, key] = every if isinstance(every, str) else item_values(run.folder, score, every=every)
        except DataError as error:
            found[score.stage, key] = str(error)
    return found


def _score(
    arm: Arm,
    key: Key,
    having: Sequence[tuple[RunFolder, BenchmarkScore]],
    items: Sequence[ItemValues | str],
) -> tuple[Score, str | None]:
    runs, scores = tuple(run for run, _ in having), [score for _, score in having]
    value, shares = float(np.mean([score.value for score in scores])), key[1] in ACCURACIES
    table, prompts, note, low, high = None, {}, None, None, None
    if reasons := [each for each in items if isinstance(each, str)]:
        note = reasons[0] if shares else None  # that a perplexity is no mean is no news
    else:
        of_items = [each for each in items if isinstance(each, ItemValues)]
        try:
            table, prompts = item_table([run.folder for run in runs], of_items), of_items[0].prompts
            estimate = mean_over_seeds(table)
            value, low, high = estimate.value, estimate.low, estimate.high
        except DataError as error:
            table, note = None, str(error)
    if low is None and shares and len(runs) == 1:
        low, high = wilson_interval(value, scores[0].n)  # of a share its items are not needed
    return (
        Score(
            key=key,
            arm=arm,
            stage=scores[0].stage,
            value=value,
            low=low,
            high=high,
            items=scores[0].n,
            seeds=len(runs),
            shares=shares,
            values=table,
            runs=runs,
            prompts=prompts,
        ),
        note,
    )
