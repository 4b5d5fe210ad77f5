"""Eigenvalues `lambda = s^2` that count, and what to say where too few do."""

import numpy as np

Shape = tuple[int, int]

FEWEST_EIGENVALUES = 50
"""Below this a bulk or a tail cannot be told from chance."""


class Undefined(Exception):  # noqa: N818 - not a fault: the reason of a null
    """A metric that means nothing for this matrix; the message says why."""


def nonzero_eigenvalues(s: np.ndarray, *, threshold: float | None = None) -> np.ndarray:
    """The eigenvalues `lambda` that are not zero to working precision.

    Args:
        s: Singular values, descending, shape (m,).
        threshold: WeightWatcher's absolute cut, 1e-5 there: what is not above it counts as zero
            too. It depends on the scale of the weights.

    Returns:
        Ascending, those of at least `m eps lambda_1`.

    Raises:
        Undefined: If the matrix is zero.
    """
    if s[0] == 0:
        raise Undefined("all singular values are zero")
    eigenvalues = s[::-1] ** 2
    kept = eigenvalues >= len(s) * np.finfo(np.float64).eps * eigenvalues[-1]
    return eigenvalues[kept if threshold is None else kept & (eigenvalues > threshold)]


def enough_eigenvalues(s: np.ndarray, *, threshold: float | None = None) -> np.ndarray:
    """The eigenvalues that are not zero, where they are enough for a fit.

    Args:
        s: Singular values, descending, shape (m,).
        threshold: As for `nonzero_eigenvalues`.

    Returns:
        Ascending.

    Raises:
        Undefined: If fewer than 50 are not zero.
    """
    eigenvalues = nonzero_eigenvalues(s, threshold=threshold)
    if len(eigenvalues) < FEWEST_EIGENVALUES:
        raise Undefined(f"{len(eigenvalues)} nonzero eigenvalues, fewer than {FEWEST_EIGENVALUES}")
    return eigenvalues
