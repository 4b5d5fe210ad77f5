"""The metric columns: each a function of `(singular values, shape)` and nothing else.

`snr_moment` alone is a function of the entries' moments. A metric that means nothing for a matrix
raises `Undefined`, which becomes a null with its reason.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from spectral_ft.spectral.bulk import num_spikes, num_spikes_tw
from spectral_ft.spectral.calibrated_bulk import CalibratedBulk, calibrated_bulk
from spectral_ft.spectral.decomposition import Decomposition
from spectral_ft.spectral.eigenvalues import Shape, Undefined
from spectral_ft.spectral.norms import (
    condition_number,
    effective_rank,
    frobenius_norm,
    num_zero,
    spectral_norm,
    stable_rank,
)
from spectral_ft.spectral.power_law import PowerLaw, power_law
from spectral_ft.spectral.signal_to_noise import snr, snr_moment, snr_noise_fraction
from spectral_ft.spectral.tail import alpha_hill, alpha_hill_median, alpha_hill_peak

Metric = Callable[[np.ndarray, Shape], float | tuple[float, ...]]
"""Of the singular values, descending, and the shape."""


@dataclass(frozen=True)
class MetricOptions:
    """What the sources of the metrics leave open."""

    edge_level: float = 0.95
    """Probability that a matrix of noise has no calibrated spike: 0.95 or 0.99."""
    histogram_bins: int = 100
    """Of `alpha_hill_peak`."""
    eigenvalue_threshold: float | None = None
    """Absolute cut below which eigenvalues count as zero in the fits of a tail; None: only the relative one."""
    further: Mapping[str, Metric] = field(default_factory=dict)
    """A user's own columns."""


Columns = tuple[dict[str, float | None], dict[str, str]]
"""Column to value, null where undefined; and column to reason for the nulls."""


def metrics(options: MetricOptions) -> Mapping[tuple[str, ...], Metric]:
    """Every metric that is a function of the spectrum, by the columns that it fills.

    Args:
        options: What the sources leave open.

    Returns:
        Column names, in the order of a report, to the function of `(singular values, shape)`.
    """
    cut = options.eigenvalue_threshold
    return {
        ("snr",): snr,
        ("snr_noise_fraction",): snr_noise_fraction,
        ("alpha_hill",): partial(alpha_hill, threshold=cut),
        ("alpha_hill_median",): partial(alpha_hill_median, threshold=cut),
        ("alpha_hill_peak",): partial(alpha_hill_peak, bins=options.histogram_bins, threshold=cut),
        PowerLaw._fields: partial(power_law, threshold=cut),
        ("num_spikes",): num_spikes,
        ("num_spikes_tw",): num_spikes_tw,
        CalibratedBulk._fields: partial(calibrated_bulk, level=options.edge_level),
        ("num_zero",): partial(num_zero, threshold=cut),
        ("spectral_norm",): spectral_norm,
        ("frobenius_norm",): frobenius_norm,
        ("stable_rank",): stable_rank,
        ("effective_rank",): effective_rank,
        ("condition_number",): condition_number,
        **{(name,): metric for name, metric in options.further.items()},
    }


COLUMNS: tuple[str, ...] = ("snr_moment", *(name for names in metrics(MetricOptions()) for name in names))
"""The columns of a report without a null."""


def spectrum_columns(s: np.ndarray, shape: Shape, options: MetricOptions) -> Columns:
    """Every metric that is a function of the spectrum.

    Args:
        s: Singular values, descending, shape (m,).
        shape: Of the matrix.
        options: What the sources leave open.

    Returns:
        Values and reasons.
    """
    columns: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for names, metric in metrics(options).items():
        try:
            found: Any = metric(s, shape)
            columns |= dict(zip(names, found if isinstance(found, tuple) else (found,), strict=True))
        except Undefined as why:
            columns |= dict.fromkeys(names)
            reasons |= dict.fromkeys(names, str(why))
    return columns, reasons


def metric_columns(decomposition: Decomposition, shape: Shape, options: MetricOptions) -> Columns:
    """Every metric of one matrix.

    Args:
        decomposition: Its singular values and the moments of its entries.
        shape: Of the matrix.
        options: What the sources leave open.

    Returns:
        Values and reasons.
    """
    columns, reasons = spectrum_columns(decomposition.singular_values, shape, options)
    try:
        moment: float | None = snr_moment(decomposition.mean, decomposition.std)
    except Undefined as why:
        moment, reasons["snr_moment"] = None, str(why)
    return {"snr_moment": moment, **columns}, reasons
