"""The section of the scores: a chart a task, and tables of all of them."""

from collections.abc import Mapping, Sequence

from spectral_ft.reporting.difference_cell import difference_text, p_text
from spectral_ft.reporting.page.arms import Arm
from spectral_ft.reporting.page.axes import RIGHT, horizontal
from spectral_ft.reporting.page.scores import Score, Scores, change
from spectral_ft.reporting.page.texts import NONE, interval_text
from spectral_ft.reporting.page.views import Bar, IntervalChart, Section, Table
from spectral_ft.reporting.samples import Key
from spectral_ft.statistics.holm import with_holm
from spectral_ft.statistics.results import Difference

LETTERS = 56
"""Of a line that fits into a drawing."""
HEADINGS = ("arm", "base", "fine-tuned", "fine-tuned less base", "p, Holm", "items", "seeds")


def results_section(arms: Sequence[Arm], scores: Scores) -> Section:
    """Scores with 95 % intervals.

    Args:
        arms: The rows.
        scores: Of these arms.

    Returns:
        A chart and a table for the leading metric of each task, tables of the other metrics to be opened.
    """
    others = tuple(key for key in scores.keys if key not in scores.leading)
    return Section(
        id="results",
        title="Scores",
        lead="Means over items and seeds with 95 % intervals; of one seed the interval is over items alone. p is "
        "corrected by Holm over all arms and tasks, of the metrics to be opened over these.",
        intervals=tuple(_chart(arms, scores, key) for key in scores.leading),
        tables=_tables(arms, scores, scores.leading),
        folded=_tables(arms, scores, others),
        notes=scores.notes,
    )


def key_text(key: Key) -> str:
    """What a metric is called.

    Args:
        key: Task, metric, extractor.

    Returns:
        In words.
    """
    task, metric, extractor = key
    return f"{task}: {metric} ({extractor})"


def score_text(score: Score | None) -> str:
    """A score in a cell.

    Args:
        score: Or None.

    Returns:
        The value with its interval, or a dash.
    """
    return NONE if score is None else interval_text(score.value, score.low, score.high, shares=score.shares)


def _tables(arms: Sequence[Arm], scores: Scores, keys: Sequence[Key]) -> tuple[Table, ...]:
    changes = {(arm.name, key): found for arm in arms for key in keys if (found := change(scores, arm, key))}
    corrected = dict(zip(changes, with_holm(list(changes.values())), strict=True))
    return tuple(_table(arms, scores, key, corrected) for key in keys)


def _table(arms: Sequence[Arm], scores: Scores, key: Key, changes: Mapping[tuple[str, Key], Difference]) -> Table:
    rows, starred, bare = [], False, False
    for arm in arms:
        base, tuned = scores.of(arm, key, "base"), scores.of(arm, key, "tuned")
        some = tuned or base
        if some is None:
            continue
        found = changes.get((arm.name, key))
        starred |= bool(found and found.below_one_question)
        bare |= some.low is None
        compared = (difference_text(found), p_text(found.p_holm)) if found else (NONE, NONE)
        rows.append((arm.name, score_text(base), score_text(tuned), *compared, str(some.items), str(some.seeds)))
    notes = ["*: less than one question"] if starred else []
    if bare:
        notes.append("No interval where a score is no mean over items, or its items are not there.")
    return Table(key_text(key), HEADINGS, tuple(rows), notes=tuple(notes))


def _fitting(name: str, rest: str) -> str:
    # Letters do not wrap in a drawing: of a long name the middle goes.
    room = LETTERS - len(rest)
    cut = name if len(name) <= room else f"{name[: room // 2]}…{name[-(room - room // 2 - 1) :]}"
    return cut + rest


def _chart(arms: Sequence[Arm], scores: Scores, key: Key) -> IntervalChart:
    drawn = [score for arm in arms for stage in ("base", "tuned") if (score := scores.of(arm, key, stage))]
    ends = [end for s in drawn for end in (s.value, s.low, s.high) if end is not None]
    scale = 100 if drawn[0].shares else 1
    x = horizontal([scale * end for end in ends], left=RIGHT)
    stages = {"base": "base", "tuned": "fine-tuned"}
    bars = tuple(
        Bar(
            label=_fitting(score.arm.name, f", {stages[score.stage]}: {score_text(score)}"),
            text=f"{score.arm.name}, {stages[score.stage]}: {score_text(score)}",
            style=score.arm.style,
            at=x.at(scale * score.value),
            low=None if score.low is None else x.at(scale * score.low),
            high=None if score.high is None else x.at(scale * score.high),
            hollow=score.stage == "base",
        )
        for score in drawn
    )
    unit = "%" if drawn[0].shares else key[1]
    return IntervalChart(
        title=f"{key_text(key)}, {unit}" if unit == "%" else key_text(key),
        description="; ".join(bar.text for bar in bars),
        ticks=x.ticks,
        bars=bars,
    )
