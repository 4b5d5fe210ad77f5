"""Numbers to places in a drawing, with round numbers at the ticks. matplotlib is imported when ticks are looked for.

A drawing is 360 x 230 units, which a phone shows at about its own size, so that its letters stay legible.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spectral_ft.reporting.page.views import Tick

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 10, 40
"""Margins, in units of the drawing."""
TICKS = 5
"""Intervals between ticks, at most."""
WIDE = 20.0
"""Largest over smallest value from which an axis is logarithmic."""


@dataclass(frozen=True)
class Scale:
    """One axis."""

    first: float
    last: float
    begin: float
    """Where `first` is drawn."""
    end: float
    logarithmic: bool
    ticks: tuple[Tick, ...]

    def at(self, value: float) -> float:
        """Where a number is drawn.

        Args:
            value: Inside the scale's ends.

        Returns:
            In units of the drawing, to a tenth.
        """
        share = _share(value, self.first, self.last, logarithmic=self.logarithmic)
        return round(self.begin + share * (self.end - self.begin), 1)


def horizontal(values: Sequence[float], *, logarithmic: bool = False, left: float = LEFT) -> Scale:
    """An axis from left to right.

    Args:
        values: All that are to be drawn.
        logarithmic: Whether equal ratios are equally wide, where the values are positive and far apart.
        left: Where it begins.

    Returns:
        The axis.
    """
    return _scale(values, left, WIDTH - RIGHT, logarithmic=logarithmic and _far_apart(values))


def vertical(values: Sequence[float]) -> Scale:
    """An axis from below upwards.

    Args:
        values: All that are to be drawn.

    Returns:
        The axis.
    """
    return _scale(values, HEIGHT - BOTTOM, TOP, logarithmic=False)


def short(value: float) -> str:
    """A number in few letters.

    Args:
        value: Any.

    Returns:
        Three or four digits, with k, M, G from a thousand on.
    """
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _scale(values: Sequence[float], begin: float, end: float, *, logarithmic: bool) -> Scale:
    from matplotlib.ticker import LogLocator, MaxNLocator

    low, high = min(values), max(values)
    if logarithmic:
        found = LogLocator(subs=(1.0, 3.0) if high / low < 1e3 else (1.0,), numticks=7).tick_values(low, high)
        first, last = low / 1.25, high * 1.25  # marks keep clear of the ends
        ticks = [float(tick) for tick in found if first <= tick <= last]
    else:
        if low == high:
            low, high = low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10
        found = MaxNLocator(nbins=TICKS, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        ticks = [0.0 if abs(tick) < 1e-12 * (high - low) else float(tick) for tick in found]
        first, last = min(ticks[0], low), max(ticks[-1], high)
    places = [begin + _share(tick, first, last, logarithmic=logarithmic) * (end - begin) for tick in ticks]
    texts = [short(tick) for tick in ticks]
    return Scale(
        first,
        last,
        begin,
        end,
        logarithmic,
        tuple(Tick(round(at, 1), text) for at, text in zip(places, texts, strict=True)),
    )


def _share(value: float, first: float, last: float, *, logarithmic: bool) -> float:
    if logarithmic:
        value, first, last = np.log(value), np.log(first), np.log(last)
    return float((value - first) / (last - first))


def _far_apart(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) >= WIDE
