"""The bootstrap over seeds and items: what other papers report over seeds, for comparison with them.

Gap, and why `seeds.py` does not use it: at three to five seeds its intervals are wrong (docs/statistics.md has how
much). Towards many seeds both agree.
"""

import numpy as np
from numpy.typing import ArrayLike

from spectral_ft.errors import DataError
from spectral_ft.statistics.intervals import DRAWS, batch, finite
from spectral_ft.statistics.paired import same_items


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


def _shares(generator: np.random.Generator, count: int, draws: int) -> np.ndarray:
    # How often each is drawn, over the number drawn.
    return generator.multinomial(count, np.full(count, 1 / count), size=draws) / count
