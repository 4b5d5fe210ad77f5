"""A power law `p(lambda) ~ lambda^(-alpha)` fitted to the tail, at the threshold where it fits best.

Source: Clauset, Shalizi and Newman 2009, sections 3.1 and 3.3; WeightWatcher's `alpha`, and what the
code of LoRA-AR runs.
"""

from typing import NamedTuple

import numpy as np

from spectral_ft.spectral.eigenvalues import Shape, Undefined, enough_eigenvalues

BLOCK_ENTRIES = 1 << 17
"""Thresholds times eigenvalues that are compared at a time: 1 MiB, which stays in the cache."""


class PowerLaw(NamedTuple):
    """The tail of a spectrum."""

    alpha_pl: float
    """The exponent, above 1."""
    x_min: float
    """The eigenvalue where the tail begins, in squared units of the weights."""
    ks_distance: float
    """Kolmogorov-Smirnov distance between the tail and its fit."""
    alpha_hat: float
    """`alpha_pl log10(lambda_1)`, WeightWatcher's; depends on the scale of the weights."""


class Fit(NamedTuple):
    """A power law from one threshold up."""

    alpha: float
    start: int
    """Index of the first eigenvalue of the tail."""
    distance: float


def power_law(s: np.ndarray, shape: Shape, *, threshold: float | None = None) -> PowerLaw:
    """The maximum-likelihood power law above the threshold of least Kolmogorov-Smirnov distance.

    Every eigenvalue but the largest is tried as threshold, and counts as the tail's first member.

    Args:
        s: Singular values, descending, shape (m,).
        shape: Of the matrix; not used.
        threshold: Absolute cut of the eigenvalues, or None.

    Returns:
        The fit.

    Raises:
        Undefined: If fewer than 50 eigenvalues are not zero, or they are all equal.
    """
    del shape
    eigenvalues = enough_eigenvalues(s, threshold=threshold)
    fit = best_fit(eigenvalues, first=0, last=len(eigenvalues) - 1)
    return PowerLaw(
        alpha_pl=fit.alpha,
        x_min=float(eigenvalues[fit.start]),
        ks_distance=fit.distance,
        alpha_hat=fit.alpha * float(np.log10(eigenvalues[-1])),
    )


def best_fit(eigenvalues: np.ndarray, *, first: int, last: int) -> Fit:
    """The best of several thresholds.

    `alpha = 1 + k / sum ln(lambda_i / x_min)`, and the distance is the largest of
    `|1 - (lambda_i / x_min)^(1 - alpha) - i / k|` over the tail, i from 0.

    Args:
        eigenvalues: Ascending, positive, shape (m,).
        first: Index of the smallest threshold that is tried.
        last: Index after the largest; the largest eigenvalue is never tried.

    Returns:
        The fit of least distance, the lowest threshold where several have it.

    Raises:
        Undefined: If no threshold gives a tail.
    """
    last = min(last, len(eigenvalues) - 1)
    logs = np.log(eigenvalues / eigenvalues[-1])
    sums = np.cumsum(logs[::-1])[::-1]
    sizes = len(logs) - np.arange(first, last)
    with np.errstate(divide="ignore"):
        spreads = sums[first:last] - sizes * logs[first:last]
        alphas = 1 + sizes / spreads
    # A tail of values that are equal to working precision has no exponent.
    usable = spreads > sizes * len(logs) * np.finfo(np.float64).eps
    if not usable.any():
        raise Undefined("no threshold leaves a tail whose eigenvalues differ")
    distances = np.where(usable, 0.0, np.inf)
    for begin, end in _blocks(first, last, len(logs)):
        chosen = slice(begin - first, end - first)
        exponents = np.where(usable[chosen], 1 - alphas[chosen], 0.0)
        gap = logs[None, begin:] - logs[begin:end, None]
        gap *= exponents[:, None]
        np.minimum(gap, 0, out=gap)  # what lies below the threshold is masked, and must not overflow
        np.exp(gap, out=gap)
        position = np.arange(len(logs) - begin)[None, :] - np.arange(end - begin)[:, None]
        gap += position / sizes[chosen][:, None]
        gap -= 1
        np.abs(gap, out=gap)
        gap[position < 0] = 0
        distances[chosen] += gap.max(axis=1)
    best = int(np.argmin(distances))
    return Fit(alpha=float(alphas[best]), start=first + best, distance=float(distances[best]))


def _blocks(first: int, last: int, count: int) -> list[tuple[int, int]]:
    found = []
    begin = first
    while begin < last:
        end = min(last, begin + max(1, BLOCK_ENTRIES // (count - begin)))
        found.append((begin, end))
        begin = end
    return found
