"""Intervals of one score.

Gap: the bootstrap's interval of a mean is a little narrow where items are few and the values skew.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest, bootstrap

from spectral_ft.errors import DataError

CONFIDENCE = 0.95
DRAWS = 9999
"""Of a bootstrap or a permutation test: the p-value's own error is then below 0.005."""
BATCH = 2_000_000
"""Values drawn at a time, so that memory stays at some ten MB whatever the number of items."""


def wilson_interval(value: float, n: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's interval of a share of right answers.

    Source: Wilson 1927; recommended for small n in Brown, Cai and DasGupta 2001, section 4.1.

    Args:
        value: Share in [0, 1].
        n: Items.
        confidence: Of the interval.

    Returns:
        Lower and upper end.
    """
    interval = binomtest(round(value * n), n).proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_interval(
    values: ArrayLike, *, confidence: float = CONFIDENCE, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap's interval of a mean of values, one an item.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; `scipy.stats.bootstrap`.

    Args:
        values: Shape (items,), in any unit.
        confidence: Of the interval.
        draws: Samples drawn.
        seed: Of the generator: the same one gives the same interval.

    Returns:
        Lower and upper end, in the unit of the values.

    Raises:
        DataError: If there is no value, or one is NaN or infinite.
    """
    each = finite(values, sides=1)
    if len(each) == 1:
        raise DataError("one item has no interval of its mean: score more items.")
    found = bootstrap(
        (each,),
        np.mean,
        n_resamples=draws,
        batch=batch(len(each)),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def finite(values: ArrayLike, *, sides: int) -> np.ndarray:
    """Values of items as an array, checked.

    Args:
        values: One an item, or one a seed and item.
        sides: 1 for (items,), 2 for (seeds, items).

    Returns:
        As float64.

    Raises:
        DataError: If it has another number of sides, is empty, or holds NaN or infinite values.
    """
    each = np.asarray(values, dtype=float)
    if each.ndim != sides or not each.size:
        raise DataError(
            f"values of shape {each.shape} have no statistic: give {'(items,)' if sides == 1 else '(seeds, items)'}, "
            "at least one of each."
        )
    if bad := int((~np.isfinite(each)).sum()):
        raise DataError(f"{bad} of {each.size} values are NaN or infinite: leave those items out on both sides.")
    return each


def are_shares(*values: np.ndarray) -> bool:
    """Whether values say right or wrong.

    Args:
        *values: Arrays.

    Returns:
        True if each is 0 or 1.
    """
    return all(bool(np.isin(each, (0.0, 1.0)).all()) for each in values)


def batch(items: int) -> int:
    """How many samples scipy shall draw at a time.

    Args:
        items: In each.

    Returns:
        At least 1.
    """
    return max(1, BATCH // items)
