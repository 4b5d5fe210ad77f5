"""Oracle: numpy's products, and LAPACK's own documentation of what fails."""

import numpy as np
import pytest

from spectral_ft.spectral.lapack import call, call_checked
from tests.oracles import gaussian

PRECISIONS = [np.float64, np.float32]


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize(("m", "depth"), [(1, 1), (5, 3), (4, 9)])
def test_what_fortran_calls_lower_is_the_upper_triangle_here(dtype, m, depth):
    tall = gaussian(depth, m, seed=1).astype(dtype)
    gram = np.full((m, m), 7, dtype)
    call("syrk", np.dtype(dtype), b"L", b"N", m, depth, 2.0, tall, m, 0.5, gram, m)
    upper = np.triu_indices(m)
    np.testing.assert_allclose(
        gram[upper], (2 * tall.T @ tall + 3.5)[upper], rtol=40 * np.finfo(dtype).eps, atol=40 * np.finfo(dtype).eps
    )
    assert (gram[np.tril_indices(m, -1)] == 7).all()


@pytest.mark.parametrize(("dtype", "letter"), [(np.float64, "d"), (np.float32, "s")])
def test_a_routine_that_does_not_converge_raises_with_its_name(dtype, letter):
    # no iteration finds the eigenvalues of NaN: the status counts those that were not found
    diagonal = np.full(3, np.nan, dtype)
    with pytest.raises(ArithmeticError, match=rf"LAPACK's {letter}sterf failed with status [1-3]$"):
        call_checked("sterf", np.dtype(dtype), 3, diagonal, diagonal.copy())


def test_an_illegal_argument_raises_with_its_position():
    nothing = np.zeros(1)
    with pytest.raises(ArithmeticError, match=r"LAPACK's dsterf failed with status -1$"):
        call_checked("sterf", np.dtype(np.float64), -1, nothing, nothing)


def test_success_raises_nothing():
    diagonal, beside = np.array([2.0, 2.0]), np.array([1.0, 0.0])
    call_checked("sterf", np.dtype(np.float64), 2, diagonal, beside)
    np.testing.assert_allclose(diagonal, [1, 3], rtol=1e-15)
