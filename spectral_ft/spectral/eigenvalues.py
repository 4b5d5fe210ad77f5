"""Eigenvalues `lambda = s^2` that count, and what to say where too few do."""

import numpy as np

Shape = tuple[int, int]

FEWEST_EIGENVALUES = 50
"""Below this a bulk or a tail cannot be told from chance."""


class Undefined(Exception):  # noqa: N818 - not a fault: the reason of a null
    """A metric that means nothing for this matrix; the message says why."""


def nonzero_eigenvalues(s: np.ndarray) -> np.ndarray:
    """The eigenvalues `lambda` that are not zero to working precision.

    Args:
        s: Singular values, descending, shape (m,).

    Returns:
        Ascending, those of at least `m eps lambda_1`.

    Raises:
        Undefined: If the matrix is zero.
    """
    if s[0] == 0:
        raise Undefined("all singular values are zero")
    eigenvalues = s[::-1] ** 2
    return eigenvalues[eigenvalues >= len(s) * np.finfo(np.float64).eps * eigenvalues[-1]]
