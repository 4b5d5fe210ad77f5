"""Oracle: Wilson's closed form, and a published example."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.reporting.intervals import wilson_interval
from tests.oracles import law

Z = 1.959963984540054


@law
@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_wilsons_closed_form(counts):
    right, n = counts
    p = right / n
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    assert wilson_interval(right / n, n) == pytest.approx((centre - half, centre + half), abs=1e-9)


def test_none_right_of_ten():
    # the upper end is z^2 / (n + z^2)
    assert wilson_interval(0, 10) == pytest.approx((0, Z**2 / (10 + Z**2)), abs=1e-12)


def test_more_confidence_is_wider():
    low, high = wilson_interval(0.3, 100, confidence=0.99)
    assert low < wilson_interval(0.3, 100)[0] < wilson_interval(0.3, 100)[1] < high
