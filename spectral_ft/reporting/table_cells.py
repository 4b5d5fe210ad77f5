"""A table of results as cells of text, which the writers put into their forms."""

from collections.abc import Sequence
from dataclasses import dataclass

from spectral_ft.reporting.difference_cell import difference_text, p_text, value_text
from spectral_ft.reporting.measured import Measured
from spectral_ft.reporting.result_table import ResultTable, Row
from spectral_ft.reporting.score_table import ACCURACIES

NOTHING = "-"
PUBLISHED = ", published"


@dataclass(frozen=True)
class CellText:
    """One cell."""

    text: str
    best: bool = False
    """In bold."""


@dataclass(frozen=True)
class CellTable:
    """One table of text."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[CellText, ...], ...]
    """The first cell of each is what the row is called."""


def cell_tables(table: ResultTable) -> list[CellTable]:
    """A table as text.

    Args:
        table: The table.

    Returns:
        The scores and costs; with a baseline, the differences to it too.
    """
    return [_scores(table), *([_differences(table)] if table.baseline else [])]


def cell_notes(table: ResultTable) -> list[str]:
    """What stands below a table.

    Args:
        table: The table.

    Returns:
        Sentences: how to read it, what must be known of it, and what became of the runs that are not in it.
    """
    notes = []
    if any(found.metric in ACCURACIES for found in table.measured.values()):
        notes.append("shares of right answers in percent: mean over seeds [95 % interval].")
    if any(table.ranking.best(place) for place in table.measured):
        notes.append("bold: better than the next best arm at 5 %, after Holm's correction over all tests of the table.")
    if any(found.below_one_question for found in table.ranking.differences.values()):
        notes.append("*: less than one question.")
    rules = dict.fromkeys(f"{task}: {found.metric} ({found.extractor})" for (_, task), found in table.measured.items())
    return [
        *notes,
        *([f"metrics: {'; '.join(rules)}."] if rules else []),
        *table.notes,
        *(f"{row.arm}, {reason}" for row in table.rows for reason in row.reasons),
    ]


def _scores(table: ResultTable) -> CellTable:
    tasks = [task for task in table.tasks if any(of == task for _, of in table.measured)]
    known = [task for task in table.tasks if any(of == task for _, of in table.published)]
    columns = [
        (task, name) for task in table.tasks for name in (task, task + PUBLISHED) if _shown(task, name, tasks, known)
    ]
    percent = ["trainable %", *(["trainable %" + PUBLISHED] if known else [])]
    averages = [*(["average"] if len(tasks) > 1 else []), *(["average" + PUBLISHED] if len(known) > 1 else [])]
    headings = ("arm", "runs", *(name for _, name in columns), *averages, *percent, "peak GiB", "training time")
    rows = []
    for row in table.rows:
        texts = {
            "arm": row.arm,
            "runs": _runs(row),
            "average": _average([table.measured.get((row.arm, task)) for task in tasks]),
            "trainable %": NOTHING if row.trainable_percent is None else f"{row.trainable_percent:.3f}",
            "peak GiB": NOTHING if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 2**30:.2f}",
            "training time": NOTHING if row.seconds is None else duration(row.seconds),
        }
        printed = [table.published[row.arm, task] for task in known if (row.arm, task) in table.published]
        if printed:
            texts["trainable %" + PUBLISHED] = f"{printed[0].params_percent:g}"
            if len(printed) == len(known):
                mean = sum(score.value for score in printed) / len(printed)
                texts["average" + PUBLISHED] = f"{mean:.1f}"
        for task in tasks:
            texts[task] = _measured(table.measured.get((row.arm, task)))
        for score in printed:
            texts[score.task + PUBLISHED] = _printed(score.value)
        best = {task for task in tasks if table.ranking.best((row.arm, task))}
        rows.append(tuple(CellText(texts.get(name, NOTHING), name in best) for name in headings))
    return CellTable("Results", headings, tuple(rows))


def _shown(task: str, name: str, tasks: Sequence[str], known: Sequence[str]) -> bool:
    return task in (tasks if name == task else known)


def _differences(table: ResultTable) -> CellTable:
    headings = ("arm", "task", "difference", "p", "p, Holm", "items", "seeds", "test")
    rows = []
    for (arm, task), found in table.ranking.differences.items():
        cells = (
            arm,
            task,
            difference_text(found),
            p_text(found.p),
            p_text(found.p_holm),
            f"{found.items}",
            f"{found.seeds}",
            found.test,
        )
        rows.append(tuple(CellText(cell) for cell in cells))
    return CellTable(f"Differences to {table.baseline}, paired on items", headings, tuple(rows))


def _runs(row: Row) -> str:
    if row.finished == row.planned:
        return f"{row.finished}"
    states = list(dict.fromkeys(reason.split(",")[0].split(":")[0].rstrip(".") for reason in row.reasons))
    return f"{row.finished} of {row.planned} ({', '.join(states)})"


def _measured(found: Measured | None) -> str:
    if found is None:
        return NOTHING
    shares = found.metric in ACCURACIES
    mean = _number(found.value, shares=shares)
    if found.estimate is None:
        return mean
    low, high = (_number(end, shares=shares) for end in (found.estimate.low, found.estimate.high))
    return f"{mean} [{low}, {high}]"


def _number(value: float, *, shares: bool) -> str:
    return value_text(value, shares=shares).removesuffix(" %")


def _average(found: Sequence[Measured | None]) -> str:
    # Of tasks that all say the same kind of thing, where none is missing.
    there = [one for one in found if one is not None and one.metric in ACCURACIES]
    if not there or len(there) != len(found):
        return NOTHING
    return f"{100 * sum(one.value for one in there) / len(there):.1f}"


def _printed(percent: float) -> str:
    # With the digits of the papers: one, or two where they have two.
    return f"{percent:.1f}" if round(percent, 1) == percent else f"{percent:g}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it.

    Args:
        seconds: How long.

    Returns:
        Seconds below two minutes, minutes below two hours, then hours.
    """
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} s"
