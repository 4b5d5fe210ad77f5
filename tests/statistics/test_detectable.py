"""Detectable differences; oracle: the exact power of McNemar's test, simulated power over seeds, a formula."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm, t

from spectral_ft.errors import DataError
from spectral_ft.statistics.crossed import crossed_error
from spectral_ft.statistics.detectable import discordance, minimal_detectable_difference
from tests.oracles import law


@law
@given(st.integers(200, 5000), st.floats(0.1, 0.6))
def test_for_one_seed_it_solves_connors_equation(n, q):
    d = minimal_detectable_difference(n, discordance=q)
    assert n * d**2 == pytest.approx((norm.ppf(0.975) * math.sqrt(q) + norm.ppf(0.8) * math.sqrt(q - d**2)) ** 2)


@pytest.mark.parametrize(("n", "q"), [(254, 0.2), (1319, 0.1)])
def test_the_exact_test_finds_it_nearly_as_often_as_promised(n, q):
    d = minimal_detectable_difference(n, discordance=q)
    power = 0.0
    for differing in range(n + 1):
        right = np.arange(differing + 1)
        p = np.minimum(1, 2 * binom.cdf(np.minimum(right, differing - right), differing, 0.5))
        found = binom.pmf(right, differing, (q + d) / 2 / q)[p <= 0.05].sum()
        power += binom.pmf(differing, n, q) * found
    assert 0.74 <= power <= 0.81  # the exact test is the more careful one


@pytest.mark.parametrize(("seeds", "between"), [(3, 0.02), (5, 0.03)])
def test_over_seeds_it_is_found_as_often_as_promised(seeds, between):
    n, q, sims, generator = 400, 0.2, 4000, np.random.default_rng(0)
    d = minimal_detectable_difference(n, discordance=q, seeds=seeds, between_seeds=between)
    # items differ alike for all seeds: each is right on one side only with q, and which side makes the difference
    by_item = generator.choice([1.0, -1.0, 0.0], p=[(q + d) / 2, (q - d) / 2, 1 - q], size=(sims, 1, n))
    table = by_item + between * generator.standard_normal((sims, seeds, 1))
    error = crossed_error(table)
    statistic = np.abs(table.mean((1, 2))) / np.sqrt(error.variance)
    assert np.mean(statistic > t.ppf(0.975, error.freedom)) == pytest.approx(0.8, abs=0.04)


def test_without_spread_seeds_help_nothing_where_all_answer_alike():
    one = minimal_detectable_difference(1000, discordance=0.2)
    assert minimal_detectable_difference(1000, discordance=0.2, seeds=4) == pytest.approx(one, rel=0.02)


@law
@given(st.integers(100, 3000), st.integers(2, 6), st.floats(0.001, 0.02))
def test_more_seeds_and_less_spread_show_more(n, k, s):
    def least(items, seeds, spread):
        return minimal_detectable_difference(items, discordance=0.5, seeds=seeds, between_seeds=spread)

    there = least(n, k, s)
    assert least(n, k + 1, s) < there < least(n, k, 2 * s)
    assert least(2 * n, k, 0.0) < least(n, k, 0.0)


def test_runs_independent_of_each_other_differ_as_two_coins():
    assert discordance(0.3, 0.0) == pytest.approx(0.42)
    assert discordance(0.3, 1.0) == 0
    assert discordance(0.5, -1.0) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"items": 1}, "1 items and 1 seeds"),
        ({"seeds": 0}, "100 items and 0 seeds"),
        ({"discordance": 0.0}, "discordance 0.0"),
        ({"alpha": 0.9}, "alpha 0.9, power 0.8"),
        ({"between_seeds": 0.01}, "one seed cannot tell a spread of 0.01"),
        ({"items": 20, "discordance": 0.1}, "20 items of which 10 % differ show no difference with power 0.8"),
    ],
)
def test_what_has_no_answer_is_refused(options, message):
    with pytest.raises(DataError, match=message):
        minimal_detectable_difference(**{"items": 100, "discordance": 0.2} | options)


@pytest.mark.parametrize(
    ("share", "correlation", "message"), [(1.2, 0, "share 1.2"), (0.1, -0.9, "no two runs of share 0.1")]
)
def test_runs_that_cannot_be_have_no_discordance(share, correlation, message):
    with pytest.raises(DataError, match=message):
        discordance(share, correlation)
