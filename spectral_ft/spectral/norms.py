"""Norms, ranks and conditioning: what needs no model of noise."""

import numpy as np

from spectral_ft.spectral.eigenvalues import Shape, Undefined, nonzero_eigenvalues


def num_zero(s: np.ndarray, shape: Shape, *, threshold: float | None = None) -> float:
    """Eigenvalues below `m eps lambda_1`, which count as zero.

    Args:
        s: Singular values, descending, shape (m,).
        shape: Of the matrix; not used.
        threshold: Absolute cut of the eigenvalues, or None.

    Returns:
        The count.
    """
    del shape
    return float(len(s) - (len(nonzero_eigenvalues(s, threshold=threshold)) if s[0] else 0))


def spectral_norm(s: np.ndarray, shape: Shape) -> float:
    """The largest singular value `s_1`.

    Args:
        s: Singular values, descending, shape (m,).
        shape: Of the matrix; not used.

    Returns:
        In units of the weights.
    """
    del shape
    return float(s[0])


def frobenius_norm(s: np.ndarray, shape: Shape) -> float:
    """`sqrt(sum lambda)`.

    Args:
        s: Singular values, descending, shape (m,).
        shape: Of the matrix; not used.

    Returns:
        In units of the weights.
    """
    del shape
    return float(np.sqrt(np.sum(s**2)))


def stable_rank(s: np.ndarray, shape: Shape) -> float:
    """`sum lambda / lambda_1`; scale invariant.

    Args:
        s: Singular values, descending, shape (m,).
        shape: Of the matrix; not used.

    Returns:
        In [1, m].

    Raises:
        Undefined: If the matrix is zero.
    """
    del shape
    if s[0] == 0:
        raise Undefined("all singular values are zero")
    return float(np.sum((s / s[0]) ** 2))


def effective_rank(s: np.ndarray, shape: Shape) -> float:
    """`exp` of the entropy of `s / sum s`; scale invariant.

    Source: Roy and Vetterli 2007, "The effective rank", eq. 2.

    Args:
        s: Singular values, descending, shape (m,).
        shape: Of the matrix; not used.

    Returns:
        In [1, m].

    Raises:
        Undefined: If the matrix is zero.
    """
    del shape
    kept = np.sqrt(nonzero_eigenvalues(s))
    p = kept / kept.sum()
    return float(np.exp(-np.sum(p * np.log(p))))


def condition_number(s: np.ndarray, shape: Shape) -> float:
    """`s_1 / s_m`; scale invariant.

    Args:
        s: Singular values, descending, shape (m,).
        shape: Of the matrix; not used.

    Returns:
        At least 1.

    Raises:
        Undefined: If the matrix is rank deficient to working precision.
    """
    if zero := num_zero(s, shape):
        raise Undefined(f"rank deficient: {zero:.0f} of {len(s)} eigenvalues are zero")
    return float(s[0] / s[-1])
