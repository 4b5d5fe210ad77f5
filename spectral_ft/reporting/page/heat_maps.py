"""Numbers over module type and block as a table whose cells are coloured; the number stands in each."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from spectral_ft.reporting.page.axes import short
from spectral_ft.reporting.page.places import Place
from spectral_ft.reporting.page.views import Cell, HeatMap

STEPS = 9
"""Of the colour scale; the letters stay legible on every one."""
WIDE = 30.0
"""Largest over smallest value from which equal ratios are equally far apart, as in the figures."""
DOUBLE = 2.0
"""The same of ranks, which are chosen by doubling."""
FROZEN, UNDEFINED = ".", "?"


def heat_map(
    caption: str,
    values: Sequence[tuple[Place, float]],
    *,
    places: Sequence[Place],
    form: Callable[[float], str] = short,
    absent: str = FROZEN,
) -> HeatMap:
    """Lay a column out.

    Args:
        caption: What it shows.
        values: Place and value; the mean is shown where several share a place, `?` where none is finite.
        places: Of all matrices: those without a value have an empty cell, and what is no place has none.
        form: Number to text.
        absent: What a place without a value says.

    Returns:
        The map; module types in the order of `places`, blocks by number.
    """
    by_place: dict[Place, list[float]] = defaultdict(list)
    for place, value in values:
        by_place[place].append(value)
    known = dict.fromkeys([*places, *by_place])
    finite = {place: [value for value in found if np.isfinite(value)] for place, found in by_place.items()}
    means = {place: float(np.mean(found)) for place, found in finite.items() if found}
    step, scale = _steps(list(means.values()), form)
    blocks = tuple(sorted({block for _, block in known}))

    def cell(place: Place) -> Cell:
        if place not in known:
            return Cell("", None)
        if place not in by_place:
            return Cell(absent, None)
        return Cell(form(means[place]), step(means[place])) if place in means else Cell(UNDEFINED, None)

    kinds = dict.fromkeys(kind for kind, _ in known)
    return HeatMap(
        caption, blocks, tuple((kind, tuple(cell((kind, block)) for block in blocks)) for kind in kinds), scale
    )


def text_map(caption: str, texts: Mapping[Place, tuple[str, float]], *, scale: str) -> HeatMap:
    """Lay texts out that have a number behind them, such as ranks.

    Args:
        caption: What it shows.
        texts: Place to what its cell says and the number that colours it, 0 for none.
        scale: What the texts mean.

    Returns:
        The map.
    """
    step, colours = _steps([value for _, value in texts.values() if value], short, wide=DOUBLE)
    blocks = tuple(sorted({block for _, block in texts}))
    kinds = dict.fromkeys(kind for kind, _ in texts)
    rows = tuple(
        (
            kind,
            tuple(
                Cell(found[0], step(found[1]) if found[1] else None)
                if (found := texts.get((kind, block)))
                else Cell("", None)
                for block in blocks
            ),
        )
        for kind in kinds
    )
    return HeatMap(caption, blocks, rows, f"{scale} {colours}".strip())


def _steps(
    values: Sequence[float], form: Callable[[float], str], *, wide: float = WIDE
) -> tuple[Callable[[float], int], str]:
    # Number to step of the scale, and what the scale means.
    if not values:
        return (lambda _: 0), ""
    low, high = min(values), max(values)
    by_ratio = low > 0 and high / low > wide

    def step(value: float) -> int:
        if low == high:
            return STEPS // 2
        share = np.log(value / low) / np.log(high / low) if by_ratio else (value - low) / (high - low)
        return min(STEPS - 1, int(share * STEPS))

    if low == high:
        return step, f"All {form(low)}."
    return step, f"From {form(low)} (faint) to {form(high)} (strong){', logarithmic' if by_ratio else ''}."
