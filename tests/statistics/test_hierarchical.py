"""The bootstrap over seeds and items; oracle: all draws of a small table, and the t procedure at many seeds."""

import itertools

import numpy as np
import pytest

from spectral_ft.errors import DataError
from spectral_ft.statistics.hierarchical import (
    BOOTSTRAP,
    bootstrap_difference,
    bootstrap_mean,
    hierarchical_bootstrap,
)
from spectral_ft.statistics.seeds import difference_over_seeds, mean_over_seeds

TABLE = np.array([[0.0, 1.0, 3.0], [2.0, 7.0, 4.0]])


def test_draws_are_those_of_seeds_and_of_items_common_to_them():
    every = [
        TABLE[np.ix_(seeds, items)].mean()
        for seeds in itertools.product(range(2), repeat=2)
        for items in itertools.product(range(3), repeat=3)
    ]
    drawn = hierarchical_bootstrap(TABLE, draws=40_000)
    assert set(drawn.round(9)) == set(np.round(every, 9))
    assert drawn.mean() == pytest.approx(np.mean(every), abs=0.03)
    assert drawn.std() == pytest.approx(np.std(every), rel=0.02)


def test_sides_share_their_items_and_where_told_their_seeds():
    assert np.ptp(hierarchical_bootstrap(TABLE + 5.0, TABLE, same_seeds=True, draws=500)) == pytest.approx(0, abs=1e-9)
    apart = hierarchical_bootstrap(TABLE + 5.0, TABLE, draws=500)
    assert np.ptp(apart) > 1 and apart.mean() == pytest.approx(5, abs=0.3)


def test_towards_many_seeds_it_agrees_with_the_t_procedure():
    generator = np.random.default_rng(0)
    one = generator.normal(size=(40, 1)) + generator.normal(size=(1, 300)) + 0.1 * generator.normal(size=(40, 300))
    two = generator.normal(size=(40, 1)) + 0.1 * generator.normal(size=(40, 300))
    low, high = np.quantile(hierarchical_bootstrap(one, two, draws=9999), [0.025, 0.975])
    found = difference_over_seeds(one, two, same_seeds=False)
    assert high - low == pytest.approx(found.high - found.low, rel=0.05)


def test_a_seed_gives_the_same_draws_again():
    assert (hierarchical_bootstrap(TABLE, seed=1) == hierarchical_bootstrap(TABLE, seed=1)).all()
    assert (hierarchical_bootstrap(TABLE, seed=1) != hierarchical_bootstrap(TABLE, seed=2)).any()


def test_sides_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="3 and 2 items cannot be paired"):
        hierarchical_bootstrap(TABLE, TABLE[:, :2])
    with pytest.raises(DataError, match="2 and 1 seeds cannot be paired"):
        hierarchical_bootstrap(TABLE, TABLE[:1], same_seeds=True)


def test_a_difference_is_the_quantiles_and_the_rarer_side_of_all_draws():
    one, two = TABLE, np.array([[1.0, 2.0, 2.0], [1.0, 3.0, 3.0]])
    every = [
        (one - two)[np.ix_(seeds, items)].mean()
        for seeds in itertools.product(range(2), repeat=2)
        for items in itertools.product(range(3), repeat=3)
    ]
    found = bootstrap_difference(one, two, same_seeds=True, draws=40_000)
    assert found.difference == pytest.approx(5 / 6)
    low, high = np.quantile(every, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06)
    assert found.p == pytest.approx(2 * np.mean(np.array(every) <= 1e-9), abs=0.02) and 0.1 < found.p < 0.5
    assert (found.test, found.over, found.seeds, found.items) == (BOOTSTRAP, "seeds and items", 2, 3)
    mean = bootstrap_mean(one, draws=40_000)
    assert (mean.value, mean.over, mean.seeds) == (pytest.approx(17 / 6), "seeds and items", 2)
    drawn = hierarchical_bootstrap(one, draws=40_000)
    assert (mean.low, mean.high) == tuple(np.quantile(drawn, [0.025, 0.975]))


def test_a_p_is_never_zero_and_turns_with_the_sides():
    one, two = TABLE + 10, TABLE
    generator = np.random.default_rng(0)
    noisy = one + generator.normal(size=(2, 3))
    found, turned = (bootstrap_difference(a, b, same_seeds=False, draws=199) for a, b in ((noisy, two), (two, noisy)))
    assert found.p == turned.p == 2 / 200 and found.difference == -turned.difference


@pytest.mark.parametrize("same_seeds", [True, False])
def test_with_one_seed_or_nothing_that_varies_the_default_answers(same_seeds):
    one, two = np.tile([1.0, 0.0, 1.0, 1.0], (1, 9)), np.tile([1.0, 0.0, 0.0, 1.0], (1, 9))
    assert bootstrap_difference(one, two, same_seeds=same_seeds) == difference_over_seeds(
        one, two, same_seeds=same_seeds
    )
    assert bootstrap_mean(one) == mean_over_seeds(one)
    alike = np.full((3, 9), 0.1)
    assert bootstrap_difference(alike, alike, same_seeds=same_seeds).p == 1
    assert bootstrap_difference(alike, alike, same_seeds=same_seeds).over == "items"
