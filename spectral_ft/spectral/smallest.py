"""The smallest singular value of a badly conditioned matrix, more exactly than its Gram matrix has it.

The inverse of the Gram matrix has the direction of the smallest singular value right, though not the
value; the matrix itself, applied to that direction, gives the value with the square of the direction's
error: to 1e-9 up to a condition number of about 1e6.

Source: Parlett 1998, "The symmetric eigenvalue problem", chapters 4 (the Rayleigh quotient) and 13
(Lanczos).
"""

from collections.abc import Iterable

import numpy as np

from spectral_ft.spectral.lapack import call_checked
from spectral_ft.spectral.tridiagonal import Reduced

BADLY_CONDITIONED = 1e3
"""Condition number from which the Gram matrix's smallest eigenvalue is wrong by more than 1e-10."""
LANCZOS = 12
"""Vectors that ARPACK keeps; the smallest eigenvalue of a square matrix stands well apart, and few do."""


def needs_refinement(eigenvalues: np.ndarray) -> bool:
    """Whether the smallest eigenvalue is worth finding again.

    Args:
        eigenvalues: Of a Gram matrix, ascending, shape (m,).

    Returns:
        True where the matrix is badly conditioned, in float64, and of full rank to working precision.
    """
    largest, smallest = float(eigenvalues[-1]), float(eigenvalues[0])
    full_rank = smallest > len(eigenvalues) * np.finfo(np.float64).eps * largest / 4
    badly = smallest * BADLY_CONDITIONED**2 < largest
    return bool(eigenvalues.dtype == np.float64 and len(eigenvalues) > LANCZOS and full_rank and badly)


def agrees(squared: float, eigenvalues: np.ndarray) -> bool:
    """Whether a refined eigenvalue is one that the Gram matrix can have, to its rounding errors.

    Args:
        squared: The refined smallest eigenvalue.
        eigenvalues: Of the Gram matrix, ascending, shape (m,).

    Returns:
        False where the iteration went to another eigenvalue.
    """
    return bool(abs(squared - eigenvalues[0]) <= len(eigenvalues) * np.finfo(np.float64).eps * eigenvalues[-1])


def smallest_direction(reduced: Reduced) -> np.ndarray | None:
    """The eigenvector of the smallest eigenvalue.

    The inverse of a band matrix costs little to apply, so the work is done there, and its eigenvector
    is turned back.

    Args:
        reduced: A positive definite matrix as a band matrix, float64.

    Returns:
        Shape (m,), of length 1; None where the matrix is not positive definite to working precision,
        or the iteration does not converge.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    factor = reduced.band.copy()
    m, rows = factor.shape
    try:
        call_checked("pbtrf", factor.dtype, b"L", m, rows - 1, factor, rows)
    except ArithmeticError:
        return None

    def solve(vector: np.ndarray) -> np.ndarray:
        found = np.array(vector, dtype=np.float64).reshape(m)
        call_checked("pbtrs", factor.dtype, b"L", m, rows - 1, 1, factor, rows, found, m)
        return found

    start = np.random.default_rng(0).standard_normal(m)
    inverse = LinearOperator((m, m), matvec=solve, dtype=np.float64)
    try:
        direction = eigsh(inverse, k=1, which="LA", v0=start, ncv=LANCZOS, tol=1e-6)[1][:, 0]
    except ArpackNoConvergence:
        return None
    for _ in range(2):  # damps what is left of the directions of large eigenvalues
        direction = solve(direction)
        direction /= np.linalg.norm(direction)
    return reduced.turned_back(direction)


def squared_length(direction: np.ndarray, pieces: Iterable[np.ndarray], *, tall: bool) -> float:
    """The squared length of a matrix applied to a direction.

    Args:
        direction: Along the matrix's shorter side, shape (m,).
        pieces: The matrix along its longer side, each piece with the whole of the shorter one.
        tall: Whether pieces are (rows, m) rather than (m, columns).

    Returns:
        In squared units of the pieces.
    """
    return float(sum(np.sum((piece @ direction if tall else direction @ piece) ** 2) for piece in pieces))
