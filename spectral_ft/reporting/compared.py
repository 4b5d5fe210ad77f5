"""What a comparison of runs says: as a table of pandas, and as text for a terminal."""

from dataclasses import dataclass

import pandas as pd
from rich.markup import escape
from rich.table import Table

from spectral_ft.reporting.difference_cell import difference_text, p_text, value_text
from spectral_ft.reporting.terminal import as_text
from spectral_ft.statistics.hierarchical import BOOTSTRAP
from spectral_ft.statistics.results import Difference, Estimate


@dataclass(frozen=True)
class Compared:
    """One score of two sides."""

    task: str
    metric: str
    extractor: str
    first: Estimate
    other: Estimate
    difference: Difference
    """First less other."""


@dataclass(frozen=True)
class Comparison:
    """All scores that two sides have in common."""

    rows: tuple[Compared, ...]
    skipped: tuple[str, ...]
    """What could not be compared, and why: sentences."""
    first: str
    """What the first side is called."""
    other: str

    def frame(self) -> pd.DataFrame:
        """The comparison as a table.

        Returns:
            One row a task, metric and extractor: means and interval ends of both sides (`first`, `first_low`, ...),
            then the fields of `Difference` and `below_one_question`, in the metric's unit (shares, not points).
        """
        return pd.DataFrame([
            {
                "task": row.task,
                "metric": row.metric,
                "extractor": row.extractor,
                "first": row.first.value,
                "first_low": row.first.low,
                "first_high": row.first.high,
                "other": row.other.value,
                "other_low": row.other.low,
                "other_high": row.other.high,
                **vars(row.difference),
                "below_one_question": row.difference.below_one_question,
            }
            for row in self.rows
        ])

    def __str__(self) -> str:
        # For a terminal: values and differences with 95 % intervals, p as it is and by Holm, and what was skipped.
        table = Table(title=f"{escape(self.first)} less {escape(self.other)}", title_justify="left")
        words = ("task", "metric")
        for heading in (*words, "first", "other", "difference", "p", "p, Holm", "only first/other", "items", "seeds"):
            table.add_column(heading, justify="left" if heading in words else "right")
        for row in self.rows:
            found = row.difference
            only = "-" if found.only_first is None else f"{found.only_first}/{found.only_other}"
            table.add_row(
                row.task,
                f"{row.metric} ({row.extractor})",
                value_text(row.first.value, shares=found.shares),
                value_text(row.other.value, shares=found.shares),
                difference_text(found),
                p_text(found.p),
                p_text(found.p_holm),
                only,
                str(found.items),
                f"{row.first.seeds}/{row.other.seeds}",
            )
        notes = [f"skipped: {sentence}" for sentence in self.skipped]
        if any(row.difference.over == "items" for row in self.rows):
            notes.append("one seed a side, or seeds that agree: intervals are over items alone, not other trainings")
        if any(row.difference.test == BOOTSTRAP for row in self.rows):
            notes.append(f"{BOOTSTRAP}: of few seeds it finds too many differences (docs/statistics.md)")
        if any(row.difference.below_one_question for row in self.rows):
            notes.append("*: less than one question")
        return as_text(table) + "".join(f"{note}\n" for note in notes)
