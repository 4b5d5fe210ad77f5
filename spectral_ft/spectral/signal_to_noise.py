"""Signal-to-noise ratios: Spectrum's, with the share it calls noise, and the seeds'.

Notation: `s_1 >= ... >= s_m` singular values, `beta = m / n`.
"""

import numpy as np

from spectral_ft.spectral.eigenvalues import Shape, Undefined

NORMAL_IQR = 1.349
"""Interquartile range of the standard normal law, which Spectrum divides by."""


def snr(s: np.ndarray, shape: Shape) -> float:
    """Spectrum's signal-to-noise ratio, kept to the letter because published scans use it.

    `sigma = IQR(s) / 1.349`, `tau = sigma (1 + sqrt(beta))`, and the ratio of the sums above and at
    or below `tau` over `s_1`. Neither a noise test (the constant belongs to the normal law, not to
    Marchenko-Pastur's) nor scale invariant. An empty noise set counts as 1.0, as in the source.

    Source: Spectrum, arXiv:2406.06623, section 3, and the authors' script.

    Args:
        s: Singular values, descending, shape (m,).
        shape: Of the matrix.

    Returns:
        The ratio, in units of one over the weights.

    Raises:
        Undefined: If the matrix is zero.
    """
    if s[0] == 0:
        raise Undefined("all singular values are zero")
    signal = s > _snr_threshold(s, shape)
    noise = s[~signal].sum() if not signal.all() else 1.0
    if noise == 0:
        raise Undefined("the noise singular values sum to zero")
    return float(s[signal].sum() / noise / s[0])


def snr_noise_fraction(s: np.ndarray, shape: Shape) -> float:
    """Share of the singular values that `snr` calls noise; 0 tells that its noise set was empty.

    Args:
        s: Singular values, descending, shape (m,).
        shape: Of the matrix.

    Returns:
        In [0, 1].
    """
    return float(np.mean(s <= _snr_threshold(s, shape)))


def snr_moment(mean: float, std: float) -> float:
    """The mean of the entries over their standard deviation: no spectral quantity, and signed.

    Source: the code of the SpectraQLoRA repositories, whose text describes Spectrum's.

    Args:
        mean: Of the entries.
        std: Of the entries, unbiased.

    Returns:
        The ratio; scale invariant.

    Raises:
        Undefined: If all entries are equal.
    """
    if std == 0:
        raise Undefined("all entries are equal")
    return mean / std


def _snr_threshold(s: np.ndarray, shape: Shape) -> float:
    upper, lower = np.quantile(s, [0.75, 0.25])
    return float((upper - lower) / NORMAL_IQR * (1 + np.sqrt(min(shape) / max(shape))))
