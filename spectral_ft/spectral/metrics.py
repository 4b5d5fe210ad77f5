"""The metric columns: each a function of `(singular values, shape)` and nothing else.

A metric that means nothing for a matrix raises `Undefined`, which becomes a null with its reason.
"""

from collections.abc import Callable

import numpy as np

from spectral_ft.spectral.bulk import num_spikes
from spectral_ft.spectral.eigenvalues import Shape, Undefined
from spectral_ft.spectral.norms import (
    condition_number,
    effective_rank,
    frobenius_norm,
    num_zero,
    spectral_norm,
    stable_rank,
)
from spectral_ft.spectral.signal_to_noise import snr, snr_noise_fraction
from spectral_ft.spectral.tail import alpha_hill

Metric = Callable[[np.ndarray, Shape], float]

METRICS: tuple[Metric, ...] = (
    snr,
    snr_noise_fraction,
    alpha_hill,
    num_spikes,
    num_zero,
    spectral_norm,
    frobenius_norm,
    stable_rank,
    effective_rank,
    condition_number,
)
"""The columns of a report, in order; a column's name is its function's."""


def metric_columns(s: np.ndarray, shape: Shape) -> tuple[dict[str, float | None], dict[str, str]]:
    """Every metric of one matrix.

    Args:
        s: Singular values, descending, shape (m,).
        shape: Of the matrix.

    Returns:
        Column to value, null where undefined; and column to reason for the nulls.
    """
    columns: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for metric in METRICS:
        try:
            columns[metric.__name__] = metric(s, shape)
        except Undefined as why:
            columns[metric.__name__] = None
            reasons[metric.__name__] = str(why)
    return columns, reasons
