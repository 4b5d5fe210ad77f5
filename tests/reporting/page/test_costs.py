"""Pareto plots; oracle: brute force over all pairs of points, and places worked out from the axis."""

from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.reporting.page.axes import Scale
from spectral_ft.reporting.page.costs import Point, costs_section, frontier
from spectral_ft.reporting.page.pairs import pairs_of
from spectral_ft.reporting.page.scores import scores_of
from tests.conftest import edit_json
from tests.oracles import law
from tests.reporting.page.folders import arms_in, write_full

FEW = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8)


@law
@given(FEW)
def test_the_frontier_is_what_nothing_beats(numbers):
    points = [Point(None, accuracy, None, None, cost) for accuracy, cost in numbers]
    best = frontier(points)
    for point in points:
        beaten = any(
            (other.accuracy > point.accuracy and other.cost <= point.cost)
            or (other.accuracy >= point.accuracy and other.cost < point.cost)
            for other in points
        )
        assert (point in best) == (not beaten)
    assert [point.cost for point in best] == sorted(point.cost for point in best)


def test_arms_are_drawn_where_their_numbers_are(tmp_path):
    write_full(tmp_path / "a", "small", {"aqua": {"tuned": [1, 0, 0, 0]}}, trainable=10)
    write_full(tmp_path / "b", "large", {"aqua": {"tuned": [1, 1, 0, 0]}}, trainable=1000)
    write_full(tmp_path / "c", "poor", {"aqua": {"tuned": [0, 0, 0, 0]}}, trainable=1000)
    arms = arms_in(tmp_path)
    section = costs_section(arms, scores_of(arms))
    chart, memory, _ = section.charts
    assert "(logarithmic)" in chart.x_label and "(logarithmic)" not in memory.x_label
    by_name = {mark.text.partition(":")[0]: mark for mark in chart.marks}
    small, large, poor = (by_name[name] for name in ("small", "large", "poor"))
    assert small.x < large.x == poor.x and large.y < small.y < poor.y
    ticks = {tick.text: tick.at for tick in chart.y_ticks}
    scale = Scale(0, 100, ticks["0"], ticks["100"], False, ())
    assert [mark.y for mark in (small, large, poor)] == [scale.at(value) for value in (25, 50, 0)]
    assert all(mark.high < mark.y < mark.low for mark in (small, large))  # y grows downwards
    assert chart.lines[0].path == f"M{small.x:g} {small.y:g}H{large.x:g}V{large.y:g}"
    assert section.tables[0].notes[0] == "On the frontier of trainable parameters: small, large."
    assert section.tables[0].notes[1] == "On the frontier of peak memory of the process: large."


def test_several_tasks_have_a_mean_without_an_interval(tmp_path):
    write_full(tmp_path / "a", "both", {"aqua": {"tuned": [1, 0]}, "svamp": {"tuned": [1, 1]}})
    write_full(tmp_path / "b", "one", {"aqua": {"tuned": [1, 1]}})
    arms = arms_in(tmp_path)
    section = costs_section(arms, scores_of(arms))
    assert [row[:2] for row in section.tables[0].rows] == [("both", "75.0 %")]
    assert section.charts[0].marks[0].low is None and "mean accuracy of 2 tasks" in section.charts[0].title


def test_an_arm_that_was_scored_before_its_training_only_has_no_accuracy(tmp_path):
    write_full(tmp_path / "a", "only", {"aqua": {"base": [1, 1]}})
    write_full(tmp_path / "b", "whole", {"aqua": {"base": [1, 1], "tuned": [1, 0]}})
    write_full(tmp_path / "c", "none", {"aqua": {"base": [0, 0]}}, trainable=0)
    arms = arms_in(tmp_path)
    scores = scores_of(arms)
    assert [row[0] for row in costs_section(arms, scores).tables[0].rows] == ["whole", "none"]
    assert scores.notes == (
        "only was scored before its training only (benchmark.stages), so it has no score of its own.",
    )
    assert [(pair.first.arm.name, pair.other.arm.name) for pair in pairs_of(arms, scores)[0]] == [("whole", "none")]


def test_what_trained_nothing_has_no_costs(tmp_path):
    folder = write_full(tmp_path / "a", "base", {"aqua": {"base": [1, 0]}})
    edit_json(folder / "result.json", train=None, plan=None)
    arms = arms_in(tmp_path)
    assert costs_section(arms, scores_of(arms)).charts == ()
