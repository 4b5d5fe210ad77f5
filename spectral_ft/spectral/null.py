"""The permutation null: each metric beside what it is when the entries of the matrix are shuffled.

Shuffling keeps every entry and destroys all structure, so what a metric says of the shuffled matrix it
says of the entries' distribution alone.
"""

import zlib
from collections.abc import Sequence

import numpy as np

from spectral_ft.spectral.eigenvalues import Shape
from spectral_ft.spectral.metrics import Columns, MetricOptions, spectrum_columns

FEWEST_FOR_Z = 8
"""Draws from which on a standard deviation is worth something."""


def shuffled(weights: np.ndarray, name: str, draw: int) -> np.ndarray:
    """The same entries in a random order, which depends on nothing but the name and the draw.

    Args:
        weights: Shape (d_out, d_in); left as it is.
        name: Of the matrix.
        draw: From 0.

    Returns:
        Shape and type of `weights`.
    """
    order = np.random.default_rng((zlib.crc32(name.encode()), draw))
    entries = weights.flatten()
    order.shuffle(entries)
    return entries.reshape(weights.shape)


def null_columns(observed: Columns, draws: Sequence[np.ndarray], shape: Shape, options: MetricOptions) -> Columns:
    """For each metric `X` of the spectrum: `X_null`, `X_excess` and, from 8 draws on, `X_z`.

    `X_null` is the mean over the draws, `X_excess = ln(X / X_null)`, `X_z = (X - X_null) / std`.

    Args:
        observed: The matrix's own columns and reasons.
        draws: Singular values of its shuffles, each descending, shape (m,).
        shape: Of the matrix.
        options: As for the observed columns.

    Returns:
        Values and reasons.
    """
    of_draws = [spectrum_columns(s, shape, options)[0] for s in draws]
    columns: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for name in of_draws[0] if of_draws else ():
        found, own = [draw[name] for draw in of_draws], observed[0][name]
        values = np.array([value for value in found if value is not None])
        names = [f"{name}_null", f"{name}_excess"] + ([f"{name}_z"] if len(draws) >= FEWEST_FOR_Z else [])
        columns |= dict.fromkeys(names)
        if len(values) < len(found):
            reasons |= dict.fromkeys(names, f"undefined for {len(found) - len(values)} of {len(found)} shuffles")
            continue
        mean = columns[names[0]] = float(values.mean())
        if own is None:
            reasons |= dict.fromkeys(names[1:], f"{name} is undefined: {observed[1][name]}")
            continue
        if own > 0 and mean > 0:
            columns[names[1]] = float(np.log(own / mean))
        else:
            reasons[names[1]] = f"no logarithm of {own:g} over {mean:g}"
        if len(names) > 2:
            spread = float(values.std(ddof=1))
            # What shuffling cannot change (the Frobenius norm) varies by rounding alone.
            if spread > 1e-9 * abs(mean):
                columns[names[2]] = (own - mean) / spread
            else:
                reasons[names[2]] = "does not vary over the shuffles"
    return columns, reasons
