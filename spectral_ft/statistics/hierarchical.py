"""The bootstrap over seeds and items: what other papers report over seeds, for comparison with them.

Gap, and why `seeds.py` does not use it: at three to five seeds its intervals are wrong (docs/statistics.md has how
much). Towards many seeds both agree.
"""

import numpy as np
from numpy.typing import ArrayLike

from spectral_ft.errors import DataError
from spectral_ft.statistics.intervals import CONFIDENCE, DRAWS, are_shares, batch, finite
from spectral_ft.statistics.paired import same_items
from spectral_ft.statistics.results import Difference, Estimate
from spectral_ft.statistics.seeds import ROUNDING, difference_over_seeds, mean_over_seeds

BOOTSTRAP = "bootstrap over seeds and items"


def bootstrap_mean(values: ArrayLike, *, confidence: float = CONFIDENCE, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """The mean over seeds and items, with the bootstrap's percentile interval.

    Args:
        values: Shape (seeds, items); with one seed `mean_over_seeds` answers.
        confidence: Of the interval.
        draws: Of the bootstrap.
        seed: Of its generator.

    Returns:
        The estimate, in the unit of the values.
    """
    table = finite(values, sides=2)
    if len(table) == 1:
        return mean_over_seeds(table, confidence=confidence, draws=draws, seed=seed)
    low, high = _ends(hierarchical_bootstrap(table, draws=draws, seed=seed), confidence)
    return Estimate(float(table.mean()), low, high, items=table.shape[1], seeds=len(table), over="seeds and items")


def bootstrap_difference(
    first: ArrayLike,
    other: ArrayLike,
    *,
    same_seeds: bool,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """The mean of one side less that of another, with the bootstrap's percentile interval and p.

    p is twice the share of draws on the rarer side of 0, with one draw added to either: the smallest is
    2 / (draws + 1). Where a side has one seed, or no draw differs from another, `difference_over_seeds` answers.

    Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), section 4.4, for p.

    Args:
        first: One side, shape (seeds, items).
        other: The other, (its seeds, items), in the same order of items.
        same_seeds: Row i of both sides has the same seed, and is drawn for both.
        confidence: Of the interval.
        draws: Of the bootstrap.
        seed: Of its generator.

    Returns:
        The difference, in the unit of the values.
    """
    one, two = finite(first, sides=2), finite(other, sides=2)
    scale = ROUNDING * max(float(np.abs(one).max()), float(np.abs(two).max()))
    several = min(len(one), len(two)) > 1
    drawn = hierarchical_bootstrap(one, two, same_seeds=same_seeds, draws=draws, seed=seed) if several else np.zeros(1)
    if np.ptp(drawn) <= scale:
        return difference_over_seeds(one, two, same_seeds=same_seeds, confidence=confidence, draws=draws, seed=seed)
    low, high = _ends(drawn, confidence)
    rarer = min(int((drawn <= scale).sum()), int((drawn >= -scale).sum()))
    return Difference(
        difference=float(one.mean() - two.mean()),
        low=low,
        high=high,
        p=min(1.0, 2 * (rarer + 1) / (draws + 1)),
        test=BOOTSTRAP,
        items=one.shape[1],
        seeds=min(len(one), len(two)),
        over="seeds and items",
        shares=are_shares(one, two),
    )


def hierarchical_bootstrap(
    first: ArrayLike, other: ArrayLike | None = None, *, same_seeds: bool = False, draws: int = DRAWS, seed: int = 0
) -> np.ndarray:
    """Means of draws of seeds and, of the same items for all of them, draws of items.

    Items are crossed with seeds (every seed answers the same ones), so one draw of items serves all drawn seeds, and
    both sides of a difference.

    Source: Owen, Annals of Applied Statistics 1 (2007) 386, the pigeonhole bootstrap.

    Args:
        first: One side, shape (seeds, items).
        other: The other, (its seeds, items), whose mean is taken off; None for the mean of one side.
        same_seeds: Row i of both sides has the same seed, and is drawn for both.
        draws: How many.
        seed: Of the generator: the same one gives the same draws.

    Returns:
        The drawn means or differences, shape (draws,); their quantiles are an interval.

    Raises:
        DataError: If numbers of items, or of seeds that should be the same, differ, or a value is NaN or infinite.
    """
    tables = [finite(first, sides=2)]
    if other is not None:
        two = finite(other, sides=2)
        same_items(tables[0], two)
        if same_seeds and len(two) != len(tables[0]):
            raise DataError(
                f"{len(tables[0])} and {len(two)} seeds cannot be paired: give the same seeds on both sides."
            )
        tables = [tables[0] - two] if same_seeds else [tables[0], -two]
    generator, items = np.random.default_rng(seed), tables[0].shape[1]
    drawn, at_once = [], batch(items)
    for start in range(0, draws, at_once):
        size = min(at_once, draws - start)
        of_seeds = sum(_shares(generator, len(table), size) @ table for table in tables)
        drawn.append((of_seeds * _shares(generator, items, size)).sum(1))
    return np.concatenate(drawn)


def _ends(drawn: np.ndarray, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _shares(generator: np.random.Generator, count: int, draws: int) -> np.ndarray:
    # How often each is drawn, over the number drawn.
    return generator.multinomial(count, np.full(count, 1 / count), size=draws) / count
