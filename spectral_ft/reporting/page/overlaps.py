"""What training sets and test sets have in common, in counts."""

from collections.abc import Sequence

from spectral_ft.reporting.page.arms import Arm
from spectral_ft.reporting.page.texts import NONE
from spectral_ft.reporting.page.views import Section, Table

HEADINGS = ("arm", "training set", "task", "test items", "the same", "nearly the same", "rows concerned", "left out")


def overlaps_section(arms: Sequence[Arm]) -> Section:
    """Test items that stand in the training set.

    Args:
        arms: With their runs.

    Returns:
        One row an arm and task, equal ones once.
    """
    rows: dict[tuple[str, ...], list[str]] = {}
    for arm in arms:
        for run in arm.finished:
            overlap = run.result.overlap if run.result else None
            for task, counts in (overlap or {"tasks": {}})["tasks"].items():
                row = _row(overlap or {}, task, counts)
                if arm.name not in rows.setdefault(row, []):
                    rows[row].append(arm.name)
    every = len([arm for arm in arms if arm.finished])
    lines = tuple(("all" if len(names) == every else ", ".join(names), *row) for row, names in rows.items())
    return Section(
        id="overlap",
        title="Overlap with test items",
        lead="Near duplicates share most of the words that count." if lines else "",
        tables=(Table("overlap", HEADINGS, lines, words=3),) if lines else (),
    )


def _row(overlap: dict, task: str, counts: dict | None) -> tuple[str, ...]:
    trained = f"{overlap['dataset']}, {overlap['rows']:,} rows"
    if counts is None:
        return trained, task, "not compared", NONE, NONE, NONE, NONE
    concerned = counts["exact_rows"] + counts["near_rows"]
    left_out = "yes" if overlap["dropped_rows"] else ("nothing to leave out" if not concerned else "no")
    numbers = (counts["items"], counts["exact_items"], counts["near_items"], concerned)
    return trained, task, *(f"{number:,}" for number in numbers), left_out
