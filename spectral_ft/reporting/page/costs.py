"""What accuracy costs: Pareto plots against trainable parameters, memory and time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from spectral_ft.reporting.page.arms import Arm, legend
from spectral_ft.reporting.page.axes import horizontal, vertical
from spectral_ft.reporting.page.scores import Scores
from spectral_ft.reporting.page.texts import NONE, interval_text, memory_text, time_text
from spectral_ft.reporting.page.views import Chart, Line, Mark, Section, Table
from spectral_ft.reporting.score_table import ACCURACIES
from spectral_ft.types import RunResult


@dataclass(frozen=True)
class Cost:
    """One thing that an arm takes."""

    label: str
    of: Callable[[RunResult], float | None]
    text: Callable[[float], str]
    unit: float = 1.0
    """What the axis counts in."""


@dataclass(frozen=True)
class Point:
    """An arm, its accuracy and its cost."""

    arm: Arm
    accuracy: float
    low: float | None
    high: float | None
    cost: float


def _trained(key: str) -> Callable[[RunResult], float | None]:
    return lambda result: None if result.train is None else result.train.get(key)


COSTS = (
    Cost(
        "trainable parameters",
        lambda result: None if result.plan is None else result.plan["trainable_parameters"],
        lambda count: f"{count:,.0f}",
    ),
    Cost("peak memory of the process, GiB", _trained("peak_memory_bytes"), memory_text, 2**30),
    Cost("peak memory of the device, GiB", _trained("peak_device_bytes"), memory_text, 2**30),
    Cost("seconds of training", _trained("seconds"), time_text),
)


def costs_section(arms: Sequence[Arm], scores: Scores) -> Section:
    """Accuracy against what it took.

    Args:
        arms: Those to draw.
        scores: Of these arms.

    Returns:
        A chart a cost, with the Pareto frontier, and the numbers as a table.
    """
    accuracies = _accuracies(arms, scores)
    tasks = len([key for key in scores.leading if key[1] in ACCURACIES])
    points = {cost: _points(cost, accuracies) for cost in COSTS}
    drawn = [arm for arm in arms if any(point.arm is arm for found in points.values() for point in found)]
    what = "accuracy" if tasks == 1 else f"mean accuracy of {tasks} tasks"
    charts = tuple(_chart(cost, found, what) for cost, found in points.items() if found)
    lead = "The line joins the arms that no other beats in both; costs are means over seeds."
    return Section(
        id="costs",
        title="Accuracy and costs",
        lead=lead if tasks == 1 else f"{lead} A mean over tasks has no interval here.",
        charts=charts,
        legend=legend(drawn) if charts else (),
        tables=(_table(drawn, points, what),) if charts else (),
    )


def frontier(points: Sequence[Point]) -> tuple[Point, ...]:
    """The arms that are worth a look: no other is at least as right and at least as cheap, and better in one.

    Args:
        points: Of one cost.

    Returns:
        By rising cost.
    """
    best = [
        point
        for point in points
        if not any(
            other.accuracy >= point.accuracy
            and other.cost <= point.cost
            and (other.accuracy > point.accuracy or other.cost < point.cost)
            for other in points
        )
    ]
    return tuple(sorted(best, key=lambda point: point.cost))


def _accuracies(arms: Sequence[Arm], scores: Scores) -> list[Point]:
    # Arms that were scored on every task; with an interval where there is one task.
    keys = [key for key in scores.leading if key[1] in ACCURACIES]
    found = []
    for arm in arms:
        each = [scores.counting(arm, key) for key in keys]
        known = [score for score in each if score is not None]
        if not known or len(known) < len(keys):
            continue
        low, high = (known[0].low, known[0].high) if len(known) == 1 else (None, None)
        found.append(Point(arm, float(np.mean([score.value for score in known])), low, high, 0.0))
    return found


def _points(cost: Cost, accuracies: Sequence[Point]) -> list[Point]:
    found = []
    for point in accuracies:
        values = [value for run in point.arm.finished if run.result and (value := cost.of(run.result)) is not None]
        if values:
            found.append(Point(point.arm, point.accuracy, point.low, point.high, float(np.mean(values))))
    return found


def _chart(cost: Cost, points: Sequence[Point], what: str) -> Chart:
    x = horizontal([point.cost / cost.unit for point in points], logarithmic=True)
    ends = [end for point in points for end in (point.accuracy, point.low, point.high) if end is not None]
    y = vertical([100 * end for end in ends])
    best = frontier(points)
    places = [(x.at(point.cost / cost.unit), y.at(100 * point.accuracy)) for point in best]
    # A step: between two arms of the frontier, what the cheaper one reaches is what is to be had.
    path = f"M{places[0][0]:g} {places[0][1]:g}" + "".join(f"H{right:g}V{up:g}" for right, up in places[1:])
    return Chart(
        title=f"{what}, %, against {cost.label}",
        description="; ".join(f"{point.arm.name}: {_accuracy(point)} at {cost.text(point.cost)}" for point in points),
        x_label=f"{cost.label}{' (logarithmic)' if x.logarithmic else ''}",
        x_ticks=x.ticks,
        y_ticks=y.ticks,
        lines=(Line(path, None, "Pareto frontier: " + ", ".join(point.arm.name for point in best)),),
        marks=tuple(
            Mark(
                x.at(point.cost / cost.unit),
                y.at(100 * point.accuracy),
                point.arm.style,
                f"{point.arm.name}: {_accuracy(point)}, {cost.text(point.cost)}",
                low=None if point.low is None else y.at(100 * point.low),
                high=None if point.high is None else y.at(100 * point.high),
            )
            for point in points
        ),
    )


def _accuracy(point: Point) -> str:
    return interval_text(point.accuracy, point.low, point.high, shares=True)


def _table(arms: Sequence[Arm], points: dict[Cost, list[Point]], what: str) -> Table:
    shown = {cost: found for cost, found in points.items() if found}
    rows = []
    for arm in arms:
        mine = {cost: point for cost, found in shown.items() for point in found if point.arm is arm}
        some = next(iter(mine.values()))
        costs = [cost.text(mine[cost].cost) if cost in mine else NONE for cost in shown]
        percents = [run.result.plan["trainable_percent"] for run in arm.finished if run.result and run.result.plan]
        percent = f"{np.mean(percents):.3g} %" if percents else NONE
        rows.append((arm.name, _accuracy(some), percent, *costs))
    headings = ("arm", what, "trainable", *(cost.label.removesuffix(", GiB") for cost in shown))
    best = {
        cost.label.removesuffix(", GiB"): ", ".join(point.arm.name for point in frontier(found))
        for cost, found in shown.items()
    }
    notes = tuple(f"On the frontier of {label}: {names}." for label, names in best.items())
    return Table("accuracy and costs", headings, tuple(rows), notes=notes)
