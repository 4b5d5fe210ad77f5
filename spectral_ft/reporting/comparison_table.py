"""Comparisons as text for a terminal."""

from rich.markup import escape
from rich.table import Table

from spectral_ft.reporting.comparison import Comparison
from spectral_ft.reporting.difference_cell import difference_text, p_text, value_text
from spectral_ft.reporting.terminal import as_text
from spectral_ft.statistics.hierarchical import BOOTSTRAP


def comparison_table(comparison: Comparison) -> str:
    """Two sides, score by score.

    Args:
        comparison: As `compare_runs` gives it.

    Returns:
        Text for a terminal: values and differences with 95 % intervals, p as it is and by Holm, and what was skipped.
    """
    table = Table(title=f"{escape(comparison.first)} less {escape(comparison.other)}", title_justify="left")
    words = ("task", "metric")
    for heading in (*words, "first", "other", "difference", "p", "p, Holm", "only first/other", "items", "seeds"):
        table.add_column(heading, justify="left" if heading in words else "right")
    for row in comparison.rows:
        found = row.difference
        holm = "-" if found.p_holm is None else p_text(found.p_holm)
        only = "-" if found.only_first is None else f"{found.only_first}/{found.only_other}"
        table.add_row(
            row.task,
            f"{row.metric} ({row.extractor})",
            value_text(row.first.value, shares=found.shares),
            value_text(row.other.value, shares=found.shares),
            difference_text(found),
            p_text(found.p),
            holm,
            only,
            str(found.items),
            f"{row.first.seeds}/{row.other.seeds}",
        )
    notes = [f"skipped: {sentence}" for sentence in comparison.skipped]
    if any(row.difference.over == "items" for row in comparison.rows):
        notes.append("one seed a side, or seeds that agree: intervals are over items alone, not over other trainings")
    if any(row.difference.test == BOOTSTRAP for row in comparison.rows):
        notes.append(f"{BOOTSTRAP}: of few seeds it finds too many differences (docs/statistics.md)")
    if any(row.difference.below_one_question for row in comparison.rows):
        notes.append("*: less than one question")
    return as_text(table) + "".join(f"{note}\n" for note in notes)
