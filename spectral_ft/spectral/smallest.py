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

BADLY_CONDITIONED = 1e3
"""Condition number from which the Gram matrix's smallest eigenvalue is wrong by more than 1e-10."""
LANCZOS = 12
"""Vectors that ARPACK keeps; the smallest eigenvalue of a square matrix stands well apart, and few do."""
KEPT_AT_A_TIME = 128
"""Rows that are mirrored at a time."""


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


def keep_in_other_triangle(gram: np.ndarray) -> np.ndarray:
    """Copy a Gram matrix into the triangle that the eigenvalue routines leave alone.

    Args:
        gram: C-ordered, shape (m, m), whose upper triangle is set; its lower one is set here.

    Returns:
        The diagonal, shape (m,), which those routines destroy.
    """
    below = np.tril_indices(KEPT_AT_A_TIME, -1)
    for start in range(0, len(gram), KEPT_AT_A_TIME):
        stop = start + KEPT_AT_A_TIME
        gram[stop:, start:stop] = gram[start:stop, stop:].T
        block = gram[start:stop, start:stop]
        rows, cols = below if len(block) == KEPT_AT_A_TIME else np.tril_indices(len(block), -1)
        block[rows, cols] = block[cols, rows]
    return gram.diagonal().copy()


def factorise(gram: np.ndarray, diagonal: np.ndarray) -> bool:
    """Replace the kept triangle by its Cholesky factor.

    Args:
        gram: After the eigenvalue routine.
        diagonal: As `keep_in_other_triangle` gave it.

    Returns:
        False where the matrix is not positive definite to working precision.
    """
    np.fill_diagonal(gram, diagonal)
    try:
        call_checked("potrf", gram.dtype, b"U", len(gram), gram, len(gram))
    except ArithmeticError:
        return False
    return True


def smallest_singular_value(factor: np.ndarray, pieces: Iterable[np.ndarray], *, tall: bool) -> float:
    """The smallest singular value, from the matrix itself.

    Args:
        factor: As `factorise` left it.
        pieces: The matrix along its longer side, each piece with the whole of the shorter one.
        tall: Whether pieces are (rows, m) rather than (m, columns).

    Returns:
        In units of the pieces; infinite where the iteration does not converge.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    m = len(factor)

    def solve(vector: np.ndarray) -> np.ndarray:
        found = np.array(vector, dtype=np.float64).reshape(m)
        call_checked("potrs", factor.dtype, b"U", m, 1, factor, m, found, m)
        return found

    start = np.random.default_rng(0).standard_normal(m)
    inverse = LinearOperator((m, m), matvec=solve, dtype=np.float64)
    try:
        direction = eigsh(inverse, k=1, which="LA", v0=start, ncv=min(m, LANCZOS), tol=1e-6)[1][:, 0]
    except ArpackNoConvergence:
        return np.inf
    for _ in range(2):  # damps what is left of the directions of large singular values
        direction = solve(direction)
        direction /= np.linalg.norm(direction)
    squares = (float(np.sum((piece @ direction if tall else direction @ piece) ** 2)) for piece in pieces)
    return float(np.sqrt(sum(squares)))
