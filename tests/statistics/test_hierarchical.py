"""The bootstrap over seeds and items; oracle: all draws of a small table, and the t procedure at many seeds."""

import itertools

import numpy as np
import pytest

from spectral_ft.errors import DataError
from spectral_ft.statistics.hierarchical import hierarchical_bootstrap
from spectral_ft.statistics.seeds import difference_over_seeds

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
