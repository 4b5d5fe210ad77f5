"""The error of a mean over seeds and items, where every seed answers the same items.

Seeds are few, so their spread is known with few degrees of freedom; items are many. It is the problem of several
readers judging the same cases, and solved as there: mean squares of a two-way table without repetition.

Gap: with two seeds, or three where seeds and items vary about as much, intervals are too narrow by a few percent.
"""

from typing import NamedTuple

import numpy as np


class CrossedError(NamedTuple):
    """How sure a mean is; arrays over the leading sides."""

    variance: np.ndarray
    """Of the mean, in its unit squared."""
    freedom: np.ndarray
    """Degrees of freedom of Student's t; infinite where nothing varies."""


def crossed_error(*groups: np.ndarray) -> CrossedError:
    """Variance and degrees of freedom of the sum of the groups' means, with seeds and items drawn by chance.

    With `MS_S`, `MS_I`, `MS_E` the mean squares of seeds, of items and of the rest of one table of k seeds and n items,

        seed part = max(MS_S, MS_E) / (k n)        item part = max(MS_I - MS_E, 0) / (k n)
        variance  = seed part + item part
        freedom   = variance^2 / (seed part^2 / (k - 1) + item part^2 / (n - 1))

    Several groups have seeds of their own and the items in common: their seed parts add up, and the item part is that
    of the sum of their item means, less what their own noise puts into it.

    Source: Satterthwaite 1946; Hillis, Statistics in Medicine 26 (2007) 596, for one table of differences; Hillis,
    Statistics in Medicine 33 (2014) 330, for groups with readers of their own.
    Departs from it: a negative estimate of the spread between seeds counts as none (`max(MS_S, MS_E)`), without which a
    test at 5 % rejects up to 8 % at three seeds and 12 % at two; the degrees of freedom count the items too, which
    matters below some thirty. The price is caution where seeds differ by no more than chance.

    Args:
        *groups: Each (..., seeds, items), two or more seeds and items; `x, -y` gives a difference.

    Returns:
        The error, shape (...).
    """
    parts = [_parts(table) for table in groups]
    items = groups[0].shape[-1]
    by_item = np.sum([table.mean(-2) for table in groups], axis=0)
    noise = np.sum([rest for _, rest in parts], axis=0)
    item_part = np.maximum(by_item.var(-1, ddof=1) / items - noise, 0)
    seed_parts = [np.maximum(spread, rest) for spread, rest in parts]
    variance = np.sum(seed_parts, axis=0) + item_part
    squares = [part**2 / (table.shape[-2] - 1) for part, table in zip(seed_parts, groups, strict=True)]
    against = np.sum(squares, axis=0) + item_part**2 / (items - 1)
    freedom = np.divide(variance**2, against, out=np.full(variance.shape, np.inf), where=against > 0)
    return CrossedError(variance, freedom)


def _parts(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # MS_S / (k n) and MS_E / (k n)
    seeds, items = table.shape[-2:]
    by_seed, by_item = table.mean(-1, keepdims=True), table.mean(-2, keepdims=True)
    rest = table - by_seed - by_item + table.mean((-1, -2), keepdims=True)
    square = (rest**2).sum((-1, -2)) / ((seeds - 1) * (items - 1))
    return by_seed[..., 0].var(-1, ddof=1) / seeds, square / (seeds * items)
