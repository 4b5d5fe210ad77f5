"""Scores over several seeds: what another training and other items would give.

Gap: of two seeds the spread is known with one degree of freedom, so intervals are wide; three or more are better.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm
from scipy.stats import t as student

from spectral_ft.errors import DataError
from spectral_ft.statistics.crossed import CrossedError, crossed_error
from spectral_ft.statistics.intervals import (
    CONFIDENCE,
    DRAWS,
    are_shares,
    bootstrap_interval,
    finite,
    wilson_interval,
)
from spectral_ft.statistics.paired import paired_difference, same_items
from spectral_ft.statistics.results import Difference, Estimate

CROSSED = "t over seeds and items"
ROUNDING = 1e-12
"""Of the largest value: what differs by less is equal."""


def mean_over_seeds(
    values: ArrayLike, *, confidence: float = CONFIDENCE, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """The mean over seeds and items, with its interval.

    One seed: Wilson's interval of a share, the bootstrap's of another mean, over items alone. Several: Student's t
    with the variance of `crossed_error`. For shares it is Wilson's interval at the number of items that has this
    variance, `n_eff = p (1 - p) / variance * (z / t)^2`, which keeps to [0, 1]; where no answer differs from another
    it is that of the items of one seed.

    Source: Korn and Graubard, Survey Methodology 24 (1998) 193, for the effective number; Dean and Pagano, Journal of
    Survey Statistics and Methodology 3 (2015) 484, for Wilson's interval at it.

    Args:
        values: Shape (seeds, items).
        confidence: Of the interval.
        draws: Of the bootstrap.
        seed: Of its generator.

    Returns:
        The estimate, in the unit of the values.

    Raises:
        DataError: If a value is NaN or infinite, or a mean that is no single share has one item.
    """
    table = finite(values, sides=2)
    (seeds, items), value, shares = table.shape, float(table.mean()), are_shares(table)
    if seeds == 1:
        low, high = (
            wilson_interval(value, items, confidence=confidence)
            if shares
            else bootstrap_interval(table[0], confidence=confidence, draws=draws, seed=seed)
        )
        return Estimate(value, low, high, items=items, seeds=1, over="items")
    _two_items(items)
    error = crossed_error(table)
    if shares:
        low, high = _share_interval(value, error, items, confidence)
    else:
        half = _quantile(error, confidence) * float(np.sqrt(error.variance))
        low, high = value - half, value + half
    return Estimate(value, low, high, items=items, seeds=seeds, over="seeds and items")


def mean_of_seeds(values: ArrayLike, *, items: int, confidence: float = CONFIDENCE) -> Estimate:
    """The mean over seeds of numbers that have no value for a single item (F1), or whose items are not at hand.

    Student's t over seeds alone: `mean +- t_(k - 1) s / sqrt(k)`.

    Args:
        values: Shape (seeds,), two or more.
        items: That each is over.
        confidence: Of the interval.

    Returns:
        The estimate, in the unit of the values.

    Raises:
        DataError: If there is one seed only, or a value is NaN or infinite.
    """
    each = finite(values, sides=1)
    if len(each) < 2:
        raise DataError("one seed has no spread over seeds: give the items, or more seeds.")
    half = float(student.ppf((1 + confidence) / 2, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each)))
    value = float(each.mean())
    return Estimate(value, value - half, value + half, items=items, seeds=len(each), over="seeds")


def difference_over_seeds(
    first: ArrayLike,
    other: ArrayLike,
    *,
    same_seeds: bool,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """The mean of one side less that of another, each over its seeds, on the same items.

    Student's t with the variance of `crossed_error`, of the table of differences where the seeds are the same, of the
    two tables otherwise. A bootstrap that draws seeds and items is too narrow at three to five seeds (a spread over k
    seeds comes out (k - 1) / k too small, and with normal tails): docs/statistics.md has both procedures' errors.
    Where a side has one seed, or nothing varies between seeds and items, the means over seeds are compared by
    `paired_difference`, and `over` says that the interval is over items alone.

    Source: Hillis 2007 and 2014, as in `crossed_error`.

    Args:
        first: One side, shape (seeds, items).
        other: The other, (its seeds, items), in the same order of items.
        same_seeds: Row i of both sides has the same seed; the sides are then paired on seeds too.
        confidence: Of the interval.
        draws: Of bootstrap and permutation, where there is one seed.
        seed: Of their generators.

    Returns:
        The difference, in the unit of the values.

    Raises:
        DataError: If the numbers of items differ, or of seeds that should be the same; if there are fewer than two
            items, or a value is NaN or infinite.
    """
    one, two = finite(first, sides=2), finite(other, sides=2)
    same_items(one, two)
    if same_seeds and len(one) != len(two):
        raise DataError(f"{len(one)} and {len(two)} seeds cannot be paired: give the same seeds on both sides.")
    items, seeds = one.shape[1], min(len(one), len(two))
    _two_items(items)
    shares = are_shares(one, two)
    error = (crossed_error(one - two) if same_seeds else crossed_error(one, -two)) if seeds > 1 else None
    if error is None or error.variance <= (ROUNDING * max(np.abs(one).max(), np.abs(two).max())) ** 2:
        alone = paired_difference(one.mean(0), two.mean(0), confidence=confidence, draws=draws, seed=seed)
        return replace(alone, shares=shares, seeds=seeds)
    difference, deviation = float(one.mean() - two.mean()), float(np.sqrt(error.variance))
    half, bound = _quantile(error, confidence) * deviation, 1.0 if shares else np.inf
    return Difference(
        difference=difference,
        low=max(difference - half, -bound),
        high=min(difference + half, bound),
        p=float(2 * student.sf(abs(difference) / deviation, error.freedom)),
        test=CROSSED,
        items=items,
        seeds=seeds,
        over="seeds and items",
        shares=shares,
    )


def _two_items(items: int) -> None:
    if items < 2:
        raise DataError("one item has no spread over items: score more items.")


def _quantile(error: CrossedError, confidence: float) -> float:
    return float(student.ppf((1 + confidence) / 2, error.freedom))


def _share_interval(value: float, error: CrossedError, items: int, confidence: float) -> tuple[float, float]:
    from statsmodels.stats.proportion import proportion_confint

    effective = float(items)
    if error.variance:
        inflated = (norm.ppf((1 + confidence) / 2) / _quantile(error, confidence)) ** 2
        effective = value * (1 - value) / float(error.variance) * inflated
    low, high = proportion_confint(value * effective, effective, alpha=1 - confidence, method="wilson")
    return float(low), float(high)
