"""A power law `p(lambda) ~ lambda^(-alpha)` fitted to the tail, at the threshold where it fits best.

Source: Clauset, Shalizi and Newman 2009, sections 3.1 and 3.3; WeightWatcher's `alpha`, and what the
code of LoRA-AR runs.
"""

from typing import NamedTuple

import numpy as np

from spectral_ft.spectral.eigenvalues import Shape, Undefined, enough_eigenvalues

BLOCK_ENTRIES = 1 << 15
"""Thresholds times eigenvalues that are compared at a time: 256 KiB, which stays in the cache."""
STRIDE = 8
"""Every which point of the spectrum is looked at first."""


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
    tried = first + np.flatnonzero(usable)
    exponents = 1 - alphas[usable]
    # The distance on some of the points is a bound from below: it tells which thresholds cannot be best.
    bounds = np.concatenate([
        _distances(logs, tried[part], exponents[part], stride=STRIDE)
        for part in _parts(len(tried), len(logs) // STRIDE)
    ])
    best, least = -1, np.inf
    order = np.argsort(bounds, kind="stable")
    for part in _parts(len(order), len(logs)):
        chosen = np.sort(order[part])
        if bounds[order[part]][0] > least:
            break
        found = _distances(logs, tried[chosen], exponents[chosen])
        lowest = int(np.argmin(found))
        if (found[lowest], tried[chosen[lowest]]) < (least, tried[best] if best >= 0 else np.inf):
            best, least = int(chosen[lowest]), float(found[lowest])
    return Fit(alpha=float(1 - exponents[best]), start=int(tried[best]), distance=least)


def _distances(logs: np.ndarray, starts: np.ndarray, exponents: np.ndarray, *, stride: int = 1) -> np.ndarray:
    # The Kolmogorov-Smirnov distance of each tail to its power law, on every `stride`-th point of the spectrum.
    points = np.arange(len(logs) - 1, starts.min() - 1, -stride)[::-1]
    gap = logs[points][None, :] - logs[starts][:, None]
    gap *= exponents[:, None]
    np.minimum(gap, 0, out=gap)  # what lies below the threshold is masked, and must not overflow
    np.exp(gap, out=gap)
    position = (points[None, :] - starts[:, None]) / (len(logs) - starts)[:, None]
    gap += position
    gap -= 1
    np.abs(gap, out=gap)
    gap[position < 0] = 0
    return np.asarray(gap.max(axis=1))


def _parts(count: int, width: int) -> list[slice]:
    # Rows of that width that fit into the cache together.
    step = max(1, BLOCK_ENTRIES // max(width, 1))
    return [slice(start, start + step) for start in range(0, count, step)]
