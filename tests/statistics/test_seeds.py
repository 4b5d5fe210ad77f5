"""Several seeds; oracles: statsmodels' two-way analysis of variance, scipy's t-test, and simulations of known truth."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_1samp, ttest_ind, ttest_rel
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from spectral_ft.errors import DataError
from spectral_ft.statistics.crossed import crossed_error
from spectral_ft.statistics.hierarchical import hierarchical_bootstrap
from spectral_ft.statistics.paired import paired_difference
from spectral_ft.statistics.seeds import difference_over_seeds, mean_of_seeds, mean_over_seeds

ITEMS = 200


def answers(sims, sides, seeds, *, share=0.5, between, items=ITEMS, own=0.5, start=0):
    """Right and wrong answers, (sims, sides, seeds, items), of true mean `share` on every side.

    An item has a difficulty (beta), which a side (`own`), a seed (`between`) and a seed's chance at it shift up as
    often as down, by normal shares of the room that there is.
    """
    generator = np.random.default_rng(start)
    difficulty = generator.beta(share, 1 - share, size=(sims, 1, 1, items))
    room = np.minimum(difficulty, 1 - difficulty)
    shift = own * generator.standard_normal((sims, sides, 1, items))
    shift = shift + between * generator.standard_normal((sims, sides, seeds, 1))
    shift = shift + 0.2 * generator.standard_normal((sims, sides, seeds, items))
    return (generator.random((sims, sides, seeds, items)) < difficulty + room * np.clip(shift, -1, 1)).astype(float)


def rejected(error, difference):
    """Share of simulations in which no difference is rejected at 5 %."""
    return np.mean(2 * student.sf(np.abs(difference) / np.sqrt(error.variance), error.freedom) <= 0.05)


# ---- the error


def test_mean_squares_are_those_of_the_analysis_of_variance():
    values = np.random.default_rng(0).normal(size=(4, 6)) + 3 * np.arange(4)[:, None] + 2 * np.arange(6)
    rows = pd.DataFrame([{"s": s, "i": i, "y": values[s, i]} for s in range(4) for i in range(6)])
    squares = anova_lm(ols("y ~ C(s) + C(i)", rows).fit())["mean_sq"]
    seeds, items, rest = squares["C(s)"], squares["C(i)"], squares["Residual"]
    assert seeds > rest and items > rest
    error = crossed_error(values)
    assert error.variance == pytest.approx((seeds + items - rest) / 24)
    freedom = (seeds + items - rest) ** 2 / (seeds**2 / 3 + (items - rest) ** 2 / 5)
    assert error.freedom == pytest.approx(freedom)


def test_where_only_seeds_differ_it_is_the_t_test_over_seeds():
    by_seed = np.random.default_rng(1).normal(size=(2, 5, 1))
    one, two = by_seed + 1e-9 * np.random.default_rng(2).normal(size=(2, 5, 50))
    paired = difference_over_seeds(one, two, same_seeds=True)
    assert paired.p == pytest.approx(ttest_rel(one.mean(1), two.mean(1)).pvalue, rel=1e-6)
    interval = ttest_rel(one.mean(1), two.mean(1)).confidence_interval()
    assert (paired.low, paired.high) == pytest.approx(tuple(interval), rel=1e-6)
    alone = difference_over_seeds(one, two, same_seeds=False)
    assert alone.p == pytest.approx(ttest_ind(one.mean(1), two.mean(1), equal_var=False).pvalue, rel=1e-6)
    assert (alone.test, alone.seeds, alone.items, alone.over) == ("t over seeds and items", 5, 50, "seeds and items")


def test_where_only_items_differ_it_is_the_t_test_over_items():
    by_item = np.random.default_rng(3).normal(size=(2, 1, 40))
    one, two = np.repeat(by_item, 3, axis=1) + 1e-9 * np.random.default_rng(4).normal(size=(2, 3, 40))
    found = difference_over_seeds(one, two, same_seeds=True)
    assert found.p == pytest.approx(ttest_rel(one[0], two[0]).pvalue, rel=1e-6)


def test_what_rounding_leaves_is_no_spread():
    by_item = np.random.default_rng(3).normal(size=50)
    one, two = np.tile(by_item + 0.1, (3, 1)), np.tile(by_item, (3, 1))
    found = difference_over_seeds(one, two, same_seeds=True)
    assert crossed_error(one - two).variance > 0  # though nothing varies
    assert (found.over, found.test) == ("items", "sign permutation")


def test_leading_sides_are_problems_of_their_own():
    values = answers(3, 1, 3, between=0.3)[:, 0]
    together, each = crossed_error(values), [crossed_error(one) for one in values]
    np.testing.assert_allclose(together.variance, [one.variance for one in each])
    np.testing.assert_allclose(together.freedom, [one.freedom for one in each])


# ---- one seed, and seeds that agree


def test_one_seed_is_an_interval_over_items_and_says_so():
    one, two = answers(1, 2, 1, between=0.3)[0]
    found = difference_over_seeds(one, two, same_seeds=True)
    assert found == paired_difference(one[0], two[0]) and found.over == "items"
    assert mean_over_seeds(one).over == "items" and mean_over_seeds(one - 0.5).over == "items"


def test_one_seed_against_three_is_over_items_too():
    one, two = answers(1, 2, 3, between=0.3)[0]
    found = difference_over_seeds(one[:1], two, same_seeds=False)
    assert (found.over, found.seeds, found.shares, found.test) == ("items", 1, True, "sign permutation")
    assert found.difference == pytest.approx(one[0].mean() - two.mean())


def test_seeds_that_agree_count_as_one():
    row = answers(1, 1, 1, between=0)[0, 0]
    agree = difference_over_seeds(np.repeat(row, 3, axis=0), np.repeat(row, 3, axis=0), same_seeds=True)
    assert (agree.difference, agree.p, agree.seeds, agree.over) == (0.0, 1.0, 3, "items")
    assert agree.low < 0 < agree.high
    right = mean_over_seeds(np.ones((3, 50)))
    assert (right.low, right.high) == pytest.approx((50 / (50 + 1.959963984540054**2), 1.0))


def test_a_difference_below_one_question_is_marked():
    one = np.zeros((3, 100))
    one[0, 0] = 1.0
    assert difference_over_seeds(one, np.zeros((3, 100)), same_seeds=True).below_one_question
    one[:, 0] = 1.0
    assert not difference_over_seeds(one, np.zeros((3, 100)), same_seeds=True).below_one_question
    losses = difference_over_seeds(one * 1e-6, np.zeros((3, 100)), same_seeds=True)
    assert not losses.below_one_question and not losses.shares


# ---- what the numbers promise


@pytest.mark.parametrize("same_seeds", [True, False])
@pytest.mark.parametrize("seeds", [2, 3, 4, 5])
@pytest.mark.parametrize("between", [0.0, 0.15, 0.6])
def test_a_difference_that_is_none_is_seldom_found(between, seeds, same_seeds):
    one, two = np.moveaxis(answers(3000, 2, seeds, between=between, start=seeds), 1, 0)
    error = crossed_error(one - two) if same_seeds else crossed_error(one, -two)
    chance = 1.5 * np.sqrt(0.06 * 0.94 / 3000)  # of the simulation
    assert rejected(error, one.mean((1, 2)) - two.mean((1, 2))) <= 0.06 + chance


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_bootstrap_over_few_seeds_finds_too_many(seeds):
    tables = answers(200, 2, seeds, between=0.6)
    wrong = 0
    for one, two in tables:
        drawn = hierarchical_bootstrap(one, two, same_seeds=True, draws=499)
        wrong += 2 * min((drawn <= 0).mean(), (drawn >= 0).mean()) <= 0.05
    assert wrong / 200 > 0.08


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize(("seeds", "between"), [(3, 0.15), (5, 0.3)])
def test_the_interval_of_a_mean_covers(seeds, between, share):
    tables = answers(1500, 1, seeds, share=share, between=between, own=0.0, start=seeds)[:, 0]
    ends = [mean_over_seeds(table) for table in tables]
    assert 0.93 <= np.mean([end.low <= share <= end.high for end in ends]) <= 0.97


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_of_a_difference_covers(seeds):
    tables = answers(800, 2, seeds, between=0.6, start=10 + seeds)
    found = [difference_over_seeds(one, two, same_seeds=True) for one, two in tables]
    assert 0.93 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.97
    assert all((one.p > 0.05) == (one.low < 0 < one.high) for one in found)


# ---- refusals


@pytest.mark.parametrize(
    ("one", "two", "same_seeds", "message"),
    [
        (np.ones((2, 5)), np.ones((2, 4)), False, "5 and 4 items cannot be paired"),
        (np.ones((2, 5)), np.ones((3, 5)), True, "2 and 3 seeds cannot be paired"),
        (np.ones((2, 1)), np.ones((2, 1)), True, "one item has no spread"),
        (np.ones(5), np.ones((2, 5)), False, r"shape \(5,\) have no statistic: give \(seeds, items\)"),
    ],
)
def test_sides_that_do_not_fit_are_refused(one, two, same_seeds, message):
    with pytest.raises(DataError, match=message):
        difference_over_seeds(one, two, same_seeds=same_seeds)


def test_the_mean_of_numbers_without_items_has_students_interval_over_seeds():
    values = np.array([0.61, 0.58, 0.66, 0.64])
    found = mean_of_seeds(values, items=300)
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high)) and found.value == pytest.approx(values.mean())
    assert (found.seeds, found.items, found.over) == (4, 300, "seeds")
    with pytest.raises(DataError, match="one seed has no spread over seeds"):
        mean_of_seeds(values[:1], items=300)
