"""The metric columns: each a function of `(singular values, shape)` and nothing else.

Notation: `m = min(shape)`, `n = max(shape)`, `s_1 >= ... >= s_m`, `lambda_i = s_i^2`,
`beta = m / n`, `Q = n / m`. A metric that means nothing for a matrix raises `Undefined`, which
becomes a null with its reason in the report.

Known gaps: the power-law fits, the calibrated edge and the permutation null are not here yet.
"""

from collections.abc import Callable

import numpy as np

Shape = tuple[int, int]
Metric = Callable[[np.ndarray, Shape], float]

FEWEST_EIGENVALUES = 50
"""Below this a bulk or a tail cannot be told from chance."""

NORMAL_IQR = 1.349
"""Interquartile range of the standard normal law, which Spectrum divides by."""


class Undefined(Exception):  # noqa: N818 - not a fault: the reason of a null
    """A metric that means nothing for this matrix; the message says why."""


def nonzero_eigenvalues(s: np.ndarray) -> np.ndarray:
    """The eigenvalues `lambda` that are not zero to working precision.

    Args:
        s: Singular values, descending, shape (m,).

    Returns:
        Ascending, those of at least `m eps lambda_1`.

    Raises:
        Undefined: If the matrix is zero.
    """
    if s[0] == 0:
        raise Undefined("all singular values are zero")
    eigenvalues = s[::-1] ** 2
    return eigenvalues[eigenvalues >= len(s) * np.finfo(np.float64).eps * eigenvalues[-1]]


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


def _snr_threshold(s: np.ndarray, shape: Shape) -> float:
    upper, lower = np.quantile(s, [0.75, 0.25])
    return float((upper - lower) / NORMAL_IQR * (1 + np.sqrt(min(shape) / max(shape))))


def alpha_hill(s: np.ndarray, shape: Shape) -> float:
    """Hill's tail exponent of the eigenvalue density over the upper half.

    `1 + k / sum_{i > m-k} ln(lambda_i / lambda_{m-k})` with lambda ascending and `k = ceil(m / 2)`;
    scale invariant.

    Source: LoRA-AR, eq. 2. Departs from it: zero eigenvalues are left out.

    Args:
        s: Singular values, descending, shape (m,).
        shape: Of the matrix; not used.

    Returns:
        The exponent, above 1.

    Raises:
        Undefined: If fewer than 50 eigenvalues are not zero, or the upper half is constant.
    """
    del shape
    eigenvalues = nonzero_eigenvalues(s)
    count = len(eigenvalues)
    if count < FEWEST_EIGENVALUES:
        raise Undefined(f"{count} nonzero eigenvalues, fewer than {FEWEST_EIGENVALUES}")
    k = -(-count // 2)
    logs = np.log(eigenvalues[count - k :] / eigenvalues[max(count - k - 1, 0)])
    if logs.sum() <= k * count * np.finfo(np.float64).eps:
        raise Undefined("the upper half of the eigenvalues is constant")
    return float(1 + k / logs.sum())


def num_spikes(s: np.ndarray, shape: Shape) -> float:
    """Eigenvalues above the Marchenko-Pastur edge, whose variance is the mean eigenvalue.

    Edge: `sigma^2 (1 + 1 / sqrt Q)^2` with `sigma^2 = mean(lambda)`; scale invariant. The spikes
    themselves inflate `sigma^2`, so many of them hide some.

    Source: LoRA-AR, eqs. 3-4.

    Args:
        s: Singular values, descending, shape (m,).
        shape: Of the matrix.

    Returns:
        The count.

    Raises:
        Undefined: If fewer than 50 eigenvalues are not zero.
    """
    count = len(nonzero_eigenvalues(s))
    if count < FEWEST_EIGENVALUES:
        raise Undefined(f"{count} nonzero eigenvalues, fewer than {FEWEST_EIGENVALUES}")
    eigenvalues = s**2
    edge = eigenvalues.mean() * (1 + np.sqrt(min(shape) / max(shape))) ** 2
    return float(np.count_nonzero(eigenvalues > edge))


def num_zero(s: np.ndarray, shape: Shape) -> float:
    """Eigenvalues below `m eps lambda_1`, which count as zero.

    Args:
        s: Singular values, descending, shape (m,).
        shape: Of the matrix; not used.

    Returns:
        The count.
    """
    del shape
    return float(len(s) - (len(nonzero_eigenvalues(s)) if s[0] else 0))


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
