"""Values of single items out of a run's folder: `scores.json` says which scores there are, `samples/` has the items."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spectral_ft.errors import Damaged, DataError, RunError
from spectral_ft.storage import read_json, read_jsonl
from spectral_ft.types import BenchmarkScore, Stage

Key = tuple[str, str, str]
"""Task, metric and extractor of a score."""


@dataclass(frozen=True)
class ItemValues:
    """One score of one run, item by item."""

    task: str
    prompts: dict[int, str]
    """Item's id to the digest of its prompt, in the order of `values`."""
    values: np.ndarray
    """Shape (items,)."""


def read_scores(folder: Path) -> tuple[BenchmarkScore, ...]:
    """The scores of a run, finished or not.

    Args:
        folder: Of the run.

    Returns:
        Base before tuned, in the order of the tasks, the leading one of a task first.

    Raises:
        RunError: If there are none, or the file is damaged.
    """
    path = folder / "scores.json"
    if not path.exists():
        raise RunError(f"{path} does not exist: give the folder of a run that was scored.")
    return read_json(path, tuple[BenchmarkScore, ...])


def samples_file(folder: Path, task: str) -> Path:
    """Where the items of a task lie.

    Args:
        folder: Of the run.
        task: Its name.

    Returns:
        A file, there or not.
    """
    return folder / "samples" / f"{task}.jsonl"


def item_values(
    folder: Path, score: BenchmarkScore, *, every: Sequence[dict[str, Any]] | None = None
) -> ItemValues | str:
    """The items of a score.

    Args:
        folder: Of the run.
        score: One of its scores.
        every: What the samples file of its task has, where that was read already.

    Returns:
        Its values by item; or why it has none: a sentence.

    Raises:
        DataError: If the samples are missing or damaged, an item is there twice, or there are more or fewer than were
            scored.
    """
    path = samples_file(folder, score.task)
    rows = [row for row in (sample_rows(path) if every is None else every) if row["stage"] == score.stage]
    found = [(row["id"], row["prompt_hash"], value) for row in rows if (value := _value(row, score)) is not None]
    if not found:
        return f"{name(score)} has no value for a single item in {path}."
    if twice := [item for item, count in Counter(item for item, *_ in found).items() if count > 1]:
        raise DataError(
            f"{path}: {len(twice)} items of {name(score)} are there more than once, the first of which is {twice[0]}; "
            "score the run again."
        )
    if len(found) != score.n:
        raise DataError(
            f"{path} has {len(found)} items of {name(score)}, but {score.n} were scored: score the run again."
        )
    values = np.array([value for *_, value in found], dtype=float)
    if not np.isclose(values.mean(), score.value, rtol=1e-6, atol=1e-9):
        return f"{name(score)} is no mean over items ({values.mean():.4g} is, the score is {score.value:.4g})."
    return ItemValues(score.task, {item: prompt for item, prompt, _ in found}, values)


def item_table(folders: Sequence[Path], items: Sequence[ItemValues]) -> np.ndarray:
    """One score of several runs, item beside item.

    Args:
        folders: Of the runs.
        items: The score of each.

    Returns:
        Shape (runs, items), in the first run's order of items.

    Raises:
        DataError: If an item is in one run only, or its prompt differs.
    """
    one, *others = items
    for folder, two in zip(folders[1:], others, strict=True):
        where = f"{folders[0]} and {folder} were not scored on the same items of {one.task}"
        if apart := sorted(set(one.prompts) ^ set(two.prompts)):
            raise DataError(
                f"{where}: {len(apart)} are in one of them only, the first of which is {apart[0]}; score both alike."
            )
        if changed := [item for item, prompt in one.prompts.items() if two.prompts[item] != prompt]:
            raise DataError(
                f"{where}: {len(changed)} have another prompt, the first of which is {changed[0]}; score both alike."
            )
    by_item = [dict(zip(each.prompts, each.values, strict=True)) for each in items]
    return np.array([[values[item] for item in one.prompts] for values in by_item])


def sample_rows(path: Path) -> list[dict[str, Any]]:
    """What a samples file has: one row an item, stage and rule.

    Args:
        path: The file.

    Returns:
        Its rows.

    Raises:
        DataError: If it is missing, may not be read or is damaged.
    """
    try:
        rows = read_jsonl(path, way_out="Score the run again.")
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: without its items a score cannot be compared.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Damaged as error:
        raise DataError(str(error)) from error
    needed = {"stage", "id", "prompt_hash", "extractor", "metrics"}
    for number, row in enumerate(rows, start=1):
        if needed - set(row):
            raise DataError(f"{path}, line {number} is no sample of an item: score the run again.")
    return rows


def name(score: BenchmarkScore) -> str:
    """What a score is called in a sentence.

    Args:
        score: The score.

    Returns:
        Task, stage, metric and extractor.
    """
    return f"{score.task} ({score.stage}, {score.metric}, {score.extractor})"


def stage_scores(scores: tuple[BenchmarkScore, ...], stage: Stage) -> dict[Key, BenchmarkScore]:
    """The scores of one stage by what they measure.

    Args:
        scores: Of a run.
        stage: Base or tuned.

    Returns:
        By task, metric and extractor.
    """
    return {(score.task, score.metric, score.extractor): score for score in scores if score.stage == stage}


def _value(row: dict[str, Any], score: BenchmarkScore) -> float | None:
    return row["metrics"].get(score.metric) if row["extractor"] == score.extractor else None
