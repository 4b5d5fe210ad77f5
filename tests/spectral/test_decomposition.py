"""Oracle: matrices made from singular values that are typed here, and numpy's own decomposition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.spectral.decomposition import singular_values
from tests.oracles import gaussian, law, rotation

TYPED = np.array([9.0, 4.0, 4.0, 0.5, 0.001])


def with_typed_values(rows: int, cols: int) -> np.ndarray:
    core = np.zeros((rows, cols))
    np.fill_diagonal(core, TYPED)
    return rotation(rows, seed=1) @ core @ rotation(cols, seed=2)


def test_a_diagonal_matrix_gives_the_magnitudes_of_its_entries_in_descending_order():
    matrix = np.zeros((4, 6))
    np.fill_diagonal(matrix, [3.0, -7.0, 0.5, 2.0])
    np.testing.assert_allclose(singular_values(matrix), [7, 3, 2, 0.5], rtol=1e-15)


@pytest.mark.parametrize("shape", [(5, 5), (5, 11), (11, 5)])
def test_rotations_change_no_singular_value(shape):
    error = np.abs(singular_values(with_typed_values(*shape)) - TYPED)
    assert (error <= 10 * np.finfo(np.float64).eps * TYPED[0] ** 2 / TYPED).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(40, 40), (30, 90), (90, 30), (1, 7)])
def test_values_agree_with_numpys_decomposition(dtype, shape):
    matrix = gaussian(*shape, seed=3).astype(dtype)
    expected = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    found = singular_values(matrix)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@law
@given(st.integers(-900, 900))
def test_no_scale_overflows_or_underflows(exponent):
    matrix = gaussian(4, 6, seed=4)
    np.testing.assert_array_equal(
        singular_values(np.ldexp(matrix, exponent)), np.ldexp(singular_values(matrix), exponent)
    )


def test_a_zero_matrix_has_zero_singular_values():
    np.testing.assert_array_equal(singular_values(np.zeros((3, 5))), np.zeros(3))


def test_rank_deficiency_never_gives_a_nan_or_a_negative_value():
    s = singular_values(np.outer(np.arange(1.0, 41), np.arange(1.0, 61)))
    assert s[0] == pytest.approx(np.sqrt((np.arange(1, 41) ** 2).sum() * (np.arange(1, 61) ** 2).sum()))
    assert ((s[1:] >= 0) & (s[1:] < 1e-6 * s[0])).all()


def test_the_matrix_is_left_as_it_was():
    matrix = gaussian(5, 5, seed=5)
    before = matrix.copy()
    singular_values(matrix)
    np.testing.assert_array_equal(matrix, before)


def test_entries_that_are_no_numbers_are_counted():
    matrix = np.array([[1.0, np.nan, 2.0], [np.inf, 0.0, 3.0]])
    with pytest.raises(ValueError, match="2 of 6 entries are NaN or infinite"):
        singular_values(matrix)
