"""The calibrated edge: how much of a spectrum noise explains, and what stands above it.

Notation: `lambda` eigenvalues, `m <= n` the sides, `r` the spikes found so far.

Limits: the test is exact for independent entries of one variance. On heavy-tailed entries or unequal
row variances every such test finds spikes where there is no structure; on the shuffled weights of a
real model about one in eight matrices shows one. Where more than about 40 % of the eigenvalues are spikes, they
are taken for the bulk, and a large `bulk_ks` is the only sign. Trained bulks are not Marchenko-Pastur's (`bulk_ks`
tells by how much), so the count is no true rank. `docs/spectra.md` has the figures.
"""

from typing import NamedTuple

import numpy as np

from spectral_ft.spectral.eigenvalues import FEWEST_EIGENVALUES, Shape, Undefined, enough_eigenvalues
from spectral_ft.spectral.marchenko_pastur import distribution, largest_eigenvalue, mean_below, quantile

TRIMMED = 0.75
"""Share of the bulk, from below, that the noise variance is estimated from."""


class CalibratedBulk(NamedTuple):
    """What noise explains of a spectrum, and what it does not."""

    num_spikes_calibrated: float
    """Eigenvalues above `bulk_edge`."""
    bulk_edge: float
    """Of eigenvalues, in squared units of the weights."""
    bulk_ks: float
    """Kolmogorov-Smirnov distance of the eigenvalues below the edge to Marchenko-Pastur's law."""
    noise_std: float
    """Of the entries, in units of the weights."""
    snr_mp: float
    """Sum of the singular values above the edge over the sum of those below: dimensionless."""


def calibrated_bulk(s: np.ndarray, shape: Shape, *, level: float = 0.95) -> CalibratedBulk:
    """Fit noise to the lower part of a spectrum and take the rest for signal.

    With `r` spikes set aside, the bulk is an (m - r, n - r) matrix of noise. Its variance is the
    mean of the lowest 75 % of its eigenvalues over the same mean of Marchenko-Pastur's law; its edge
    is Johnstone's centring plus a quantile of Tracy-Widom's law times his scale. What lies above is
    set aside, until no more does.

    Source: ours; centring and scale from Johnstone 2001. Setting spikes aside one fit after the
    other: Kritchman and Nadler 2008.

    Args:
        s: Singular values, descending, shape (m,).
        shape: Of the matrix.
        level: Probability, 0.95 or 0.99, that a matrix of noise has no spike.

    Returns:
        The fit. Only `bulk_edge` and `noise_std` change with the scale of the weights.

    Raises:
        Undefined: If fewer than 50 eigenvalues are not zero, or are left in the bulk.
    """
    eigenvalues = enough_eigenvalues(s)
    m, n = len(eigenvalues), max(shape)
    spikes, trimmed = 0, 1.0
    while True:
        rows, cols = m - spikes, n - spikes
        if rows < FEWEST_EIGENVALUES:
            raise Undefined(f"{rows} eigenvalues are left below {spikes} spikes, fewer than {FEWEST_EIGENVALUES}")
        trimmed = quantile(_kept(rows) / rows, rows / cols, start=trimmed)
        variance = _variance(eigenvalues[:rows], cols, trimmed)
        edge = variance * largest_eigenvalue(rows, cols, level)
        above = int(np.count_nonzero(eigenvalues > edge))
        if above <= spikes:
            break
        spikes = above
    bulk, tail = eigenvalues[: m - above], eigenvalues[m - above :]
    return CalibratedBulk(
        num_spikes_calibrated=float(above),
        bulk_edge=float(edge),
        bulk_ks=_distance(bulk / (variance * cols), rows / cols),
        noise_std=float(np.sqrt(variance)),
        snr_mp=float(np.sqrt(tail).sum() / np.sqrt(bulk).sum()),
    )


def _kept(count: int) -> int:
    return int(TRIMMED * count)


def _variance(bulk: np.ndarray, cols: int, trimmed: float) -> float:
    # `trimmed` is the quantile of the law that the lowest eigenvalues end at.
    kept = _kept(len(bulk))
    expected = mean_below(trimmed, len(bulk) / cols) * len(bulk) / kept
    return float(bulk[:kept].mean() / expected / cols)


def _distance(x: np.ndarray, beta: float) -> float:
    expected, count = distribution(x, beta), len(x)
    steps = np.arange(count + 1) / count
    return float(max((expected - steps[:-1]).max(), (steps[1:] - expected).max()))
