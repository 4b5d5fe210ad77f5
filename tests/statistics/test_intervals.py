"""Oracle: Wilson's closed form, exact sums over all outcomes, and the known error of a normal mean."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from spectral_ft.errors import DataError
from spectral_ft.statistics.intervals import bootstrap_interval, wilson_interval
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


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95])
def test_wilsons_interval_covers(share):
    ends = [wilson_interval(right / 200, 200) for right in range(201)]
    covered = sum(binom.pmf(right, 200, share) for right, (low, high) in enumerate(ends) if low <= share <= high)
    assert 0.93 <= covered <= 0.97


def test_the_bootstrap_of_many_values_is_the_normal_interval():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=2000)
    half = Z * values.std(ddof=1) / math.sqrt(2000)
    expected = (values.mean() - half, values.mean() + half)
    assert bootstrap_interval(values) == pytest.approx(expected, abs=0.05 * half)


def test_the_bootstrap_interval_of_losses_covers():
    losses = np.random.default_rng(5).exponential(size=(1500, 200))
    ends = np.array([bootstrap_interval(row, draws=299) for row in losses])
    assert 0.93 <= np.mean((ends[:, 0] <= 1) & (ends[:, 1] >= 1)) <= 0.97


def test_a_seed_gives_the_same_interval_again():
    values = np.random.default_rng(1).exponential(size=50)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "have no statistic"),
        ([[1.0, 2.0]], r"shape \(1, 2\) have no statistic: give \(items,\)"),
        ([1.0], "one item has no interval"),
        ([1.0, float("inf"), 2.0], "1 of 3 values are NaN or infinite"),
    ],
)
def test_values_without_an_interval_are_refused(values, message):
    with pytest.raises(DataError, match=message):
        bootstrap_interval(values)
