"""Scores before and after, side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from spectral_ft.errors import DataError
from spectral_ft.reporting.difference_cell import difference_text, p_text
from spectral_ft.reporting.samples import ItemValues, Key, item_table, item_values, samples_file
from spectral_ft.reporting.terminal import as_text
from spectral_ft.statistics.holm import with_holm
from spectral_ft.statistics.intervals import wilson_interval
from spectral_ft.statistics.paired import paired_difference
from spectral_ft.statistics.results import Difference
from spectral_ft.types import BenchmarkScore, RunResult, Stage

ACCURACIES = ("exact_match", "acc", "acc_norm")
HEADINGS: Mapping[Stage, str] = {"base": "base", "tuned": "fine-tuned"}
Stages = Mapping[Stage, BenchmarkScore]


def leading(scores: Sequence[BenchmarkScore]) -> dict[tuple[str, Stage], BenchmarkScore]:
    """The first score of each task and stage, which is the one that counts.

    Args:
        scores: Of a run.

    Returns:
        (task, stage) to score.
    """
    found: dict[tuple[str, Stage], BenchmarkScore] = {}
    for score in scores:
        found.setdefault((score.task, score.stage), score)
    return found


def counting_stage(result: RunResult) -> Stage:
    """Which of its scores stand for a run.

    Args:
        result: Its record.

    Returns:
        Those after training; those of the base where nothing was trained.
    """
    if result.plan is None:  # which says nothing of it
        return "tuned" if any(score.stage == "tuned" for score in result.scores) else "base"
    return "tuned" if result.plan["trainable_parameters"] else "base"


def uncounted(name: str, results: Sequence[RunResult]) -> str | None:
    """What is to be said of runs that were trained and scored before it alone (`benchmark.stages=[base]`).

    Args:
        name: Of their arm.
        results: Their records.

    Returns:
        A sentence; None where none is so.
    """
    for result in results:
        if result.scores and counting_stage(result) not in {score.stage for score in result.scores}:
            return f"{name} was scored before its training only (benchmark.stages), so it has no score of its own."
    return None


def score_table(scores: Sequence[BenchmarkScore], folder: Path, *, title: str) -> str:
    """Every score that is given, base beside fine-tuned, and the difference on the same items, p by Holm over them all.

    Args:
        scores: Those of one folder.
        folder: Where their samples lie; without samples there is no difference.
        title: Of the table.

    Returns:
        Text for a terminal.
    """
    rows: dict[Key, dict[Stage, BenchmarkScore]] = {}
    for score in scores:
        rows.setdefault((score.task, score.metric, score.extractor), {})[score.stage] = score
    changes, notes = _changes(rows, folder)
    table = Table(title=title, title_justify="left")
    stages = [stage for stage in HEADINGS if any(stage in row for row in rows.values())]
    compared = ["fine-tuned less base", "p, Holm"] if changes else []
    for heading in ("task", "metric", *(HEADINGS[stage] for stage in stages), *compared, "items"):
        table.add_column(heading, justify="left" if heading in {"task", "metric"} else "right")
    for (task, metric, extractor), row in rows.items():
        cells = [_cell(row.get(stage)) for stage in stages]
        if changes:
            change = changes.get((task, metric, extractor))
            cells += [difference_text(change), p_text(change.p_holm)] if change else ["-", "-"]
        table.add_row(task, f"{metric} ({extractor})", *cells, str(next(iter(row.values())).n))
    return as_text(table) + "".join(f"{note}\n" for note in notes)


def _changes(rows: Mapping[Key, Stages], folder: Path) -> tuple[dict[Key, Difference], list[str]]:
    # Fine-tuned less base on the same items, for tasks whose samples lie in the folder, and what is to be said of it.
    changes: dict[Key, Difference] = {}
    notes: dict[str, None] = {}
    for key, row in rows.items():
        if len(row) < 2 or not samples_file(folder, key[0]).exists():
            continue
        try:
            tuned, base = (item_values(folder, row[stage]) for stage in ("tuned", "base"))
            if isinstance(tuned, ItemValues) and isinstance(base, ItemValues):
                changes[key] = paired_difference(*item_table([folder, folder], [tuned, base]))
        except DataError as error:
            notes[str(error)] = None  # the scores stand, whatever is wrong with their items
    if any(change.below_one_question for change in changes.values()):
        notes["*: less than one question"] = None
    return dict(zip(changes, with_holm(list(changes.values())), strict=True)), list(notes)


def _cell(score: BenchmarkScore | None) -> str:
    if score is None:
        return "-"
    if score.metric not in ACCURACIES:
        return f"{score.value:.3f}"
    low, high = wilson_interval(score.value, score.n)
    return f"{100 * score.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
