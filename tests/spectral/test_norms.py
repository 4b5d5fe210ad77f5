"""Oracle: spectra of a few typed values worked out by hand, and bounds that hold for every spectrum."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.spectral import norms
from spectral_ft.spectral.decomposition import singular_values
from spectral_ft.spectral.eigenvalues import Undefined
from tests.oracles import gaussian, law


def test_norms_and_ranks_of_typed_values():
    s = np.array([4.0, 3.0, 0.0])
    assert norms.spectral_norm(s, (3, 3)) == 4
    assert norms.frobenius_norm(s, (3, 3)) == pytest.approx(5)
    assert norms.stable_rank(s, (3, 3)) == pytest.approx(25 / 16)
    assert norms.effective_rank(s, (3, 3)) == pytest.approx((7 / 4) ** (4 / 7) * (7 / 3) ** (3 / 7))
    assert norms.num_zero(s, (3, 3)) == 1


def test_the_frobenius_norm_is_that_of_the_entries():
    weights = gaussian(30, 50, seed=1)
    assert norms.frobenius_norm(singular_values(weights), (30, 50)) == pytest.approx(np.sqrt((weights**2).sum()))


def test_the_condition_number_of_typed_values():
    assert norms.condition_number(np.array([8.0, 3.0, 2.0]), (3, 3)) == 4


def test_equal_singular_values_have_full_rank():
    s = np.full(7, 0.3)
    assert norms.effective_rank(s, (7, 9)) == pytest.approx(7)
    assert norms.stable_rank(s, (7, 9)) == pytest.approx(7)


def test_a_matrix_of_rank_one_has_effective_rank_one():
    weights = np.outer(gaussian(300, 1, seed=11), gaussian(400, 1, seed=12))
    assert norms.effective_rank(singular_values(weights), weights.shape) == pytest.approx(1, abs=1e-9)


def test_the_condition_number_of_a_deficient_matrix_is_undefined():
    with pytest.raises(Undefined, match="rank deficient: 2 of 4 eigenvalues are zero"):
        norms.condition_number(np.array([8.0, 3.0, 1e-9, 0.0]), (4, 4))


@pytest.mark.parametrize(("smallest", "zero"), [(1.01, 0), (0.99, 1)])
def test_an_eigenvalue_counts_as_zero_below_the_size_times_rounding_of_the_largest(smallest, zero):
    s = np.array([3.0, 2.0, 1.5, 3.0 * smallest * np.sqrt(4 * 2.0**-52)])
    assert norms.num_zero(s, (4, 9)) == zero


def test_an_absolute_threshold_counts_what_is_not_above_it_and_never_less_than_the_relative_one():
    s = np.array([4.0, 2.0, 1.0, 0.5, 0.0])
    assert [norms.num_zero(s, (5, 5), threshold=cut) for cut in (None, 0.0, 0.2, 0.25, 1.0, 16.0)] == [1, 1, 1, 2, 3, 5]


def test_all_of_a_zero_matrix_is_zero_whatever_the_threshold():
    assert norms.num_zero(np.zeros(6), (6, 8)) == norms.num_zero(np.zeros(6), (6, 8), threshold=1e-5) == 6


@pytest.mark.parametrize("rank", [norms.stable_rank, norms.effective_rank])
def test_a_zero_matrix_has_no_rank(rank):
    with pytest.raises(Undefined, match="all singular values are zero"):
        rank(np.zeros(3), (3, 3))


@law
@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=30), st.integers(0, 50))
def test_ranks_lie_between_one_and_the_smaller_side(values, excess):
    s = np.sort(values)[::-1]
    for rank in (norms.stable_rank, norms.effective_rank):
        assert 1 - 1e-9 <= rank(s, (len(s), len(s) + excess)) <= len(s) + 1e-9
