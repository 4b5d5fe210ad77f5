"""What a command prints when it is done."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from spectral_ft.errors import DataError
from spectral_ft.reporting.comparison import item_table
from spectral_ft.reporting.difference_cell import difference_text, p_text
from spectral_ft.reporting.samples import ItemValues, item_values, samples_file
from spectral_ft.reporting.terminal import as_text
from spectral_ft.statistics.intervals import wilson_interval
from spectral_ft.statistics.paired import paired_difference
from spectral_ft.statistics.results import Difference
from spectral_ft.types import BenchmarkScore, RunResult

ACCURACIES = ("exact_match", "acc", "acc_norm")


def leading(scores: Sequence[BenchmarkScore]) -> dict[tuple[str, str], BenchmarkScore]:
    """The first score of each task and stage, which is the one that counts.

    Args:
        scores: Of a run.

    Returns:
        (task, stage) to score.
    """
    found: dict[tuple[str, str], BenchmarkScore] = {}
    for score in scores:
        found.setdefault((score.task, score.stage), score)
    return found


def objective(result: RunResult) -> float | None:
    """What a sweeper maximises.

    Args:
        result: A record.

    Returns:
        The mean over tasks of the leading score after training (of the base where nothing was trained), or None where
        nothing was scored.
    """
    counts = "base" if result.plan and not result.plan["trainable_parameters"] else "tuned"
    found = [score.value for (_, stage), score in leading(result.scores).items() if stage == counts]
    return sum(found) / len(found) if found else None


def closing_table(result: RunResult, folder: Path) -> str:
    """Scores before and after, and what they cost.

    Args:
        result: A record.
        folder: Where it lies.

    Returns:
        Text for a terminal.
    """
    first = leading(result.scores)
    changes, notes = _changes(first, folder)
    table = Table(title=f"run {result.run_id}", title_justify="left")
    compared = ["fine-tuned less base", "p"] if changes else []
    for heading in ("task", "metric", "base", "fine-tuned", *compared, "items"):
        table.add_column(heading, justify="left" if heading in {"task", "metric"} else "right")
    for task in dict.fromkeys(score.task for score in result.scores):
        shown = first.get((task, "tuned")) or first[task, "base"]
        cells = [_cell(first.get((task, stage))) for stage in ("base", "tuned")]
        if changes:
            change = changes.get(task)
            cells += [difference_text(change), p_text(change.p)] if change else ["-", "-"]
        table.add_row(task, f"{shown.metric} ({shown.extractor})", *cells, str(shown.n))
    facts = Table.grid(padding=(0, 2))
    if result.plan:
        share = f"{result.plan['trainable_parameters']:,} ({result.plan['trainable_percent']:.2f} % of all)"
        facts.add_row("trainable parameters", share)
        facts.add_row("adapted matrices", f"{result.plan['adapted_matrices']} of {result.plan['matrices']}")
    if result.train:
        rate = f"{result.train['seconds']:.0f} for {result.train['steps']} steps"
        facts.add_row("seconds of training", f"{rate}, {result.train['tokens_per_second']:,.0f} tokens/s")
        facts.add_row("peak memory", f"{result.train['peak_memory_bytes'] / 2**30:.2f} GiB")
        for key, name in (("validation_loss", "loss on held-out examples"), ("general_loss", "loss on general text")):
            if loss := result.train.get(key):
                facts.add_row(name, f"{loss['before']:.3f} before, {loss['after']:.3f} after")
    facts.add_row("seconds in all", f"{result.seconds:.0f}")
    facts.add_row("record", str(folder / "result.json"))
    return as_text(table) + "".join(f"{note}\n" for note in notes) + as_text(facts)


def _changes(first: dict[tuple[str, str], BenchmarkScore], folder: Path) -> tuple[dict[str, Difference], list[str]]:
    # Fine-tuned less base on the same items, for tasks whose samples lie in the folder, and what is to be said of it.
    changes, notes = {}, []
    for task in dict.fromkeys(task for task, _ in first):
        stages = [first.get((task, stage)) for stage in ("tuned", "base")]
        if None in stages or not samples_file(folder, task).exists():
            continue
        try:
            tuned, base = (item_values(folder, score) for score in stages if score)
            if isinstance(tuned, ItemValues) and isinstance(base, ItemValues):
                changes[task] = paired_difference(*item_table([folder, folder], [tuned, base]))
        except DataError as error:
            # The scores stand, whatever is wrong with their items.
            notes.append(str(error))
    if any(change.below_one_question for change in changes.values()):
        notes.append("*: less than one question")
    return changes, notes


def _cell(score: BenchmarkScore | None) -> str:
    if score is None:
        return "-"
    if score.metric not in ACCURACIES:
        return f"{score.value:.3f}"
    low, high = wilson_interval(score.value, score.n)
    return f"{100 * score.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
