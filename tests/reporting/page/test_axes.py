"""Axes; oracle: laws of a scale, as properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.reporting.page.axes import HEIGHT, WIDTH, horizontal, short, vertical
from tests.oracles import law

NUMBERS = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-6), min_size=1)
POSITIVE = st.lists(st.floats(1e-6, 1e9), min_size=2)


def number(text):
    sizes = {"k": 1e3, "M": 1e6, "G": 1e9}
    value, _, letter = text.partition(" ")
    return float(value) * sizes.get(letter, 1)


@law
@given(NUMBERS)
def test_every_value_is_inside_and_order_is_kept(values):
    for scale, size in ((horizontal(values), WIDTH), (vertical(values), HEIGHT)):
        places = [scale.at(value) for value in sorted(values)]
        assert all(0 <= place <= size for place in places)
        assert places == sorted(places, reverse=scale.end < scale.begin)
        assert 2 <= len(scale.ticks) <= 8


@law
@given(POSITIVE)
def test_ticks_stand_where_their_numbers_are(values):
    scale = horizontal(values, logarithmic=True)
    assert scale.logarithmic == (max(values) / min(values) >= 20)
    assert 1 <= len(scale.ticks) <= 9
    for tick in scale.ticks:
        if scale.logarithmic:  # round numbers, that three digits say exactly
            assert tick.at == pytest.approx(scale.at(number(tick.text)), abs=0.11)


def test_equal_ratios_are_equally_wide_where_values_are_far_apart():
    scale = horizontal([1e3, 1e6], logarithmic=True)
    assert scale.at(1e5) - scale.at(1e4) == pytest.approx(scale.at(1e4) - scale.at(1e3), abs=0.2)
    near = horizontal([100, 300], logarithmic=True)
    assert not near.logarithmic and near.at(300) - near.at(200) == pytest.approx(near.at(200) - near.at(100), abs=0.2)


def test_numbers_are_short():
    assert [short(value) for value in (116736, 1803072, 2.5e9, 0.004, -12.345, 0)] == [
        "117 k",
        "1.8 M",
        "2.5 G",
        "0.004",
        "-12.3",
        "0",
    ]
