"""Training curves; oracle: the numbers of a typed log, read back from the drawing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.reporting.page.curves import POINTS, curves_section, thinned
from spectral_ft.storage import write_jsonl
from tests.oracles import law
from tests.reporting.page.folders import arms_in, write_full

RIGHT = {"aqua": {"tuned": [1, 0]}}


@law
@given(st.integers(1, 5000), st.integers(2, 300))
def test_thinned_curves_keep_their_ends(length, most):
    points = [(float(n), float(n * n)) for n in range(length)]
    kept = thinned(points, most=most)
    assert len(kept) <= max(most, 1) and kept[0] == points[0] and kept[-1] == points[-1]
    assert set(kept) <= set(points) and kept == sorted(kept)
    assert len(kept) == length or len(kept) >= most / 2


def drawn(chart):
    """The values of the first curve, out of its path and the ticks."""
    places = [tuple(map(float, pair.split())) for pair in chart.lines[0].path[1:].split("L")]
    (low, bottom), *_, (high, top) = [(float(tick.text), tick.at) for tick in chart.y_ticks]
    return [low + (y - bottom) / (top - bottom) * (high - low) for _, y in places]


def test_each_seed_is_a_line_with_its_numbers(tmp_path):
    for seed in (0, 1):
        write_full(tmp_path / f"{seed}", "one", RIGHT, seed=seed)
    loss, norm, rate = curves_section(arms_in(tmp_path)).charts
    assert [chart.title for chart in (loss, norm, rate)] == ["loss", "norm of the gradient", "learning rate"]
    assert [line.text for line in loss.lines] == ["one, seed 0", "one, seed 1"]
    assert loss.lines[0].style == loss.lines[1].style
    assert drawn(loss) == pytest.approx([3, 1.5, 1, 0.75, 0.6], abs=0.01)
    assert drawn(rate) == pytest.approx([0.001, 0.002, 0.003, 0.004, 0.005], abs=3e-5)
    assert loss.marks[0].text == "one, seed 0: 0.6 at step 5" and "one, seed 1 ends at 0.6" in loss.description


def test_rows_of_other_things_and_cut_lines(tmp_path):
    run = write_full(tmp_path / "a", "one", RIGHT)
    write_jsonl(
        run / "train.jsonl", [{"step": 2, "loss": 1.0}, {"step": 2, "validation_loss": 0.5}, {"step": 1, "loss": 2}]
    )
    with (run / "train.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    section = curves_section(arms_in(tmp_path))
    assert [chart.title for chart in section.charts] == ["loss", "loss on held-out examples"]
    assert drawn(section.charts[0]) == pytest.approx([2.0, 1.0], abs=0.01)  # by step
    assert section.notes == ("one, seed 0: 1 lines of its train.jsonl are damaged and left out.",)


def test_a_loss_that_is_no_number_is_told(tmp_path):
    run = write_full(tmp_path / "a", "one", RIGHT)
    write_jsonl(run / "train.jsonl", [{"step": n, "loss": [1.0, 2.0, float("nan"), float("inf")][n]} for n in range(4)])
    section = curves_section(arms_in(tmp_path))
    assert drawn(section.charts[0]) == pytest.approx([1.0, 2.0], abs=0.01)
    assert section.notes == ("one, seed 0: loss is NaN or infinite in 2 rows, first at step 2.",)


def test_long_curves_are_thinned_on_the_page(tmp_path):
    write_full(tmp_path / "a", "one", RIGHT, steps=5000)
    assert curves_section(arms_in(tmp_path)).charts[0].lines[0].path.count("L") < POINTS


def test_nothing_logged_nothing_drawn(tmp_path):
    (write_full(tmp_path / "a", "one", RIGHT) / "train.jsonl").unlink()
    section = curves_section(arms_in(tmp_path))
    assert section.charts == () and section.legend == ()
