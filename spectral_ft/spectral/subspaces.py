"""The singular subspaces of a matrix, and how those of another lie to them.

A subspace is given by orthonormal columns. Where two neighbouring singular values are equal, neither of their vectors
is determined, only the plane of both: a top subspace means something where `s_k > s_(k+1)`, and turns the more easily
the smaller their difference is (Wedin 1972).
"""

from typing import NamedTuple

import numpy as np


class Decomposed(NamedTuple):
    """A matrix as `left diag(values) right^T`, with m the smaller side."""

    left: np.ndarray
    """Shape (d_out, m), orthonormal columns."""
    values: np.ndarray
    """Descending, shape (m,)."""
    right: np.ndarray
    """Shape (d_in, m), orthonormal columns."""


def decomposed(weights: np.ndarray) -> Decomposed:
    """Singular values with all their vectors, by LAPACK in float64.

    Args:
        weights: Shape (d_out, d_in).

    Returns:
        The thin decomposition: of a tall or wide matrix the longer side has m of its vectors.

    Raises:
        ValueError: If an entry is NaN or infinite.
    """
    if wrong := int(np.count_nonzero(~np.isfinite(weights))):
        raise ValueError(f"{wrong} of {weights.size} entries are NaN or infinite")
    left, values, right = np.linalg.svd(np.asarray(weights, np.float64), full_matrices=False)
    return Decomposed(left, values, right.T)


def principal_angles(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The angles between two subspaces: the least between any two of their directions, then across to those, and so on.

    Their cosines are the singular values of `one^T other`, their sines those of `other - one one^T other`. The
    arctangent of both is exact for small and for right angles, where scipy's `subspace_angles` can be 1e-8 off: it
    chooses between arccos and arcsin by the angle at the other end of the order.

    Source: Bjorck and Golub 1973, section 3.

    Args:
        one: Orthonormal columns, shape (n, k).
        other: Orthonormal columns, shape (n, k).

    Returns:
        Radians in [0, pi / 2], the largest first, shape (k,).
    """
    inside = one.T @ other
    cosines = np.linalg.svd(inside, compute_uv=False)[::-1]
    sines = np.linalg.svd(other - one @ inside, compute_uv=False)
    return np.asarray(np.arctan2(sines, cosines))


def intruders(before: np.ndarray, after: np.ndarray, *, threshold: float) -> np.ndarray:
    """Which singular vectors are like none that was there before.

    `y_j` is an intruder dimension where `max_i |cos(y_j, x_i)| < threshold`, over all singular vectors `x_i` of the
    matrix before, whatever their singular values.

    Source: arXiv:2410.21228, definition 1 and algorithm 1. It takes left singular vectors of the thin decomposition.

    Args:
        before: All singular vectors of one side, as columns, shape (n, m).
        after: Those singular vectors of the other matrix that are looked at, shape (n, k).
        threshold: Of the absolute cosine.

    Returns:
        Booleans, shape (k,).
    """
    found: np.ndarray = np.abs(before.T @ after).max(axis=0) < threshold
    return found


def energy_share(update: np.ndarray, *, left: np.ndarray | None = None, right: np.ndarray | None = None) -> float:
    """How much of a matrix lies in given subspaces: `|L L^T U R R^T|_F^2 / |U|_F^2`.

    Without a side its projection is left out. A direction drawn at random has k / d_out of it on the left, k / d_in on
    the right, and the product of both in the two.

    Source: arXiv:2106.09685, section 7.3, there of W in the subspaces of the update and not divided.

    Args:
        update: Shape (d_out, d_in), not zero.
        left: Orthonormal columns, shape (d_out, k), or None.
        right: Orthonormal columns, shape (d_in, k), or None.

    Returns:
        In [0, 1].
    """
    inside = update if left is None else left.T @ update
    inside = inside if right is None else inside @ right
    share = float(np.linalg.norm(inside)) / float(np.linalg.norm(update))
    return min(share**2, 1.0)  # rounding can exceed it
