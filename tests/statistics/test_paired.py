"""Two runs on the same items; oracle: scipy's binomial test, all signs, exact sums over all outcomes."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from spectral_ft.errors import DataError
from spectral_ft.statistics.paired import paired_difference
from tests.oracles import law


def runs(both, first, other, neither):
    """Values of two runs with so many items right on both sides, on one, on none."""
    one = np.repeat([1.0, 1.0, 0.0, 0.0], [both, first, other, neither])
    two = np.repeat([1.0, 0.0, 1.0, 0.0], [both, first, other, neither])
    return one, two


def outcomes(n, first, other, *, least=1e-6):
    """Trinomial probability of each (only first, only other), those below `least` left out."""
    share = first + other
    for differing in range(n + 1):
        for right in range(differing + 1):
            chance = binom.pmf(differing, n, share) * binom.pmf(right, differing, first / share)
            if chance > least:
                yield right, differing - right, chance


counts = st.tuples(*[st.integers(0, 30)] * 4).filter(lambda table: sum(table) > 1)


@law
@given(counts)
def test_p_is_the_binomial_test_of_the_items_on_which_they_differ(table):
    found = paired_difference(*runs(*table), draws=49)
    _, first, other, _ = table
    assert (found.only_first, found.only_other) == (first, other)
    expected = binomtest(first, first + other).pvalue if first + other else 1.0
    assert found.p == pytest.approx(expected, rel=1e-9)


@law
@given(counts)
def test_sides_exchanged_change_the_sign_only(table):
    one, two = runs(*table)
    there, back = paired_difference(one, two, draws=49), paired_difference(two, one, draws=49)
    assert (back.difference, back.p) == (-there.difference, there.p)
    assert there.low <= there.difference <= there.high


def test_the_sign_permutation_is_all_signs_for_few_items():
    differences = np.array([0.31, -0.2, 0.55, 0.41, 0.07, 0.9, -0.13])
    means = [np.mean(np.array(signs) * differences) for signs in itertools.product((1, -1), repeat=7)]
    share = np.mean(np.abs(means) >= abs(differences.mean()) - 1e-12)
    found = paired_difference(differences + 2.0, np.full(7, 2.0))
    assert found.p == pytest.approx(share) and found.test == "sign permutation"
    assert (found.only_first, found.shares) == (None, False)


def test_a_seed_gives_the_same_numbers_again_and_another_others():
    one, two = np.random.default_rng(0).normal(size=(2, 40))
    assert paired_difference(one, two, seed=1) == paired_difference(one, two, seed=1)
    assert paired_difference(one, two, seed=1) != paired_difference(one, two, seed=2)


def test_runs_that_agree_everywhere_are_not_known_to_be_equal():
    # 1 - 0.025^(1/100): Clopper-Pearson's upper end of 0 of 100
    found = paired_difference(*runs(60, 0, 0, 40))
    assert (found.difference, found.p) == (0.0, 1.0)
    assert (found.low, found.high) == pytest.approx((-(1 - 0.025**0.01), 1 - 0.025**0.01))


def test_a_run_that_is_better_everywhere_is_not_known_to_be_always():
    found = paired_difference(*runs(0, 100, 0, 0))
    assert (found.low, found.high) == pytest.approx((1 - 2 * (1 - 0.025**0.01), 1.0))


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (0.03, 0.03),
        (0.1, 0.04),
        pytest.param(0.05, 0.05, marks=pytest.mark.slow),
        pytest.param(0.02, 0.08, marks=pytest.mark.slow),
        pytest.param(0.125, 0.125, marks=pytest.mark.slow),
        pytest.param(0.25, 0.25, marks=pytest.mark.slow),
        pytest.param(0.3, 0.1, marks=pytest.mark.slow),
    ],
)
def test_the_bootstrap_interval_covers(first, other):
    # exact sum over outcomes of 200 items, of shares right on one side only
    n, covered, total = 200, 0.0, 0.0
    for right, wrong, chance in outcomes(n, first, other, least=1e-4):
        found = paired_difference(*runs(0, right, wrong, n - right - wrong), draws=499)
        covered += chance * (found.low <= first - other <= found.high)
        total += chance
    assert total > 0.96
    assert 0.93 <= covered / total <= 0.97


@pytest.mark.parametrize(
    ("n", "discordance"), [(50, 0.05), (50, 0.2), (200, 0.1), pytest.param(200, 0.5, marks=pytest.mark.slow)]
)
def test_mcnemars_error_is_at_most_what_it_promises(n, discordance):
    rejected = sum(
        chance
        for first, other, chance in outcomes(n, discordance / 2, discordance / 2, least=1e-5)
        if paired_difference(*runs(0, first, other, n - first - other), draws=9).p <= 0.05
    )
    assert rejected <= 0.05


def test_the_permutations_error_is_at_most_what_it_promises():
    generator = np.random.default_rng(7)
    losses = generator.exponential(size=(1000, 2, 30))
    rejected = np.mean([paired_difference(*pair, draws=99).p <= 0.05 for pair in losses])
    assert 0.03 <= rejected <= 0.06


@pytest.mark.parametrize(
    ("one", "two", "message"),
    [
        ([1, 0, 1], [1, 0], "3 and 2 items cannot be paired"),
        ([1, np.nan], [1, 0], "1 of 2 values are NaN"),
        ([1], [0], "one item has no interval"),
        ([], [], "shape .0,. have no statistic"),
    ],
)
def test_what_cannot_be_compared_is_refused(one, two, message):
    with pytest.raises(DataError, match=message):
        paired_difference(one, two)
