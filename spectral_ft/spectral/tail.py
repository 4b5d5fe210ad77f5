"""How heavy the tail of the eigenvalues is, from a threshold that a rule sets (Hill's estimator).

Notation: eigenvalues `lambda` ascending. `power_law.py` searches the threshold instead.
"""

import numpy as np

from spectral_ft.spectral.eigenvalues import Shape, Undefined, enough_eigenvalues
from spectral_ft.spectral.power_law import best_fit


def alpha_hill(s: np.ndarray, shape: Shape, *, threshold: float | None = None) -> float:
    """Hill's tail exponent of the eigenvalue density over the upper half.

    `1 + k / sum_{i > m-k} ln(lambda_i / lambda_{m-k})` with lambda ascending and `k = ceil(m / 2)`;
    scale invariant.

    Source: LoRA-AR, eq. 2. Departs from it: zero eigenvalues are left out.

    Args:
        s: Singular values, descending, shape (m,).
        shape: Of the matrix; not used.
        threshold: Absolute cut of the eigenvalues, or None.

    Returns:
        The exponent, above 1.

    Raises:
        Undefined: If fewer than 50 eigenvalues are not zero, or the upper half is constant.
    """
    del shape
    eigenvalues = enough_eigenvalues(s, threshold=threshold)
    k = -(-len(eigenvalues) // 2)
    return _hill(eigenvalues[-k:], eigenvalues[max(len(eigenvalues) - k - 1, 0)])


def alpha_hill_median(s: np.ndarray, shape: Shape, *, threshold: float | None = None) -> float:
    """`alpha_hill` with the median itself as threshold, which then is the tail's first member.

    `1 + k / sum ln(lambda_i / lambda_{i0})` over the `k = m - i0` largest, `i0 = floor(m / 2)`
    counted from 0; scale invariant.

    Source: TempBalance and AlphaPruning, their rule `median`.

    Args:
        s: Singular values, descending, shape (m,).
        shape: Of the matrix; not used.
        threshold: Absolute cut of the eigenvalues, or None.

    Returns:
        The exponent, above 1.

    Raises:
        Undefined: If fewer than 50 eigenvalues are not zero, or the upper half is constant.
    """
    del shape
    eigenvalues = enough_eigenvalues(s, threshold=threshold)
    tail = eigenvalues[len(eigenvalues) // 2 :]
    return _hill(tail, tail[0])


def alpha_hill_peak(s: np.ndarray, shape: Shape, *, bins: int = 100, threshold: float | None = None) -> float:
    """The tail exponent above the peak of the spectrum on a logarithmic axis.

    The threshold is the eigenvalue within [0.95, 1.5] times the peak of the histogram of
    `log10 lambda` whose power law is nearest (Kolmogorov-Smirnov); scale invariant.

    Source: AlphaPruning, "fix-finger". Departs from the released code, which compares `log10` of the
    lower limit with an eigenvalue and so mostly has none.

    Args:
        s: Singular values, descending, shape (m,).
        shape: Of the matrix; not used.
        bins: Of the histogram.
        threshold: Absolute cut of the eigenvalues, or None.

    Returns:
        The exponent, above 1.

    Raises:
        Undefined: If fewer than 50 eigenvalues are not zero, or none of the thresholds gives a
            tail.
    """
    del shape
    eigenvalues = enough_eigenvalues(s, threshold=threshold)
    # In units of the largest, so that no rounding depends on the scale of the weights.
    logs = np.log10(eigenvalues / eigenvalues[-1])
    counts, edges = np.histogram(logs, bins)
    peak = edges[np.argmax(counts)]
    first, last = np.searchsorted(logs, [peak + np.log10(0.95), peak + np.log10(1.5)])
    return best_fit(eigenvalues, first=int(first), last=int(last)).alpha


def _hill(tail: np.ndarray, start: float) -> float:
    logs = float(np.log(tail / start).sum())
    if logs <= len(tail) ** 2 * np.finfo(np.float64).eps:
        raise Undefined("the upper half of the eigenvalues is constant")
    return 1 + len(tail) / logs
