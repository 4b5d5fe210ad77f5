"""How far training moved each matrix, over block and module type. matplotlib is imported when it is drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from spectral_ft.reporting.drawing import save_figure
from spectral_ft.types import MatrixShape

FROZEN, NULL = "#e4e2dd", "#b9b3a9"
CELL_HEIGHT, CELL_WIDTH = 0.3, 0.34
"""Inches."""
LETTER = 0.1
"""Inches, of a letter of a module type."""
FONT_SIZE = 6.5
"""Points, in a cell."""


class Panel(NamedTuple):
    """One column of the drift, as a heat map."""

    column: str
    title: str
    form: str
    """Of a number in a cell."""
    scale: float = 1.0
    """What the column is multiplied by."""


PANELS = (
    Panel("relative_frobenius", "|update| / |W|, Frobenius norm", "{:.2g}"),
    Panel("angle_left", "largest angle between the top left subspaces, degrees", "{:.0f}", 180 / np.pi),
    Panel("intruders_left", "intruder dimensions, left", "{:.3g}"),
)


def draw_drift(
    path: Path,
    drift: pd.DataFrame,
    matrices: Sequence[MatrixShape],
    *,
    title: str,
    panels: Sequence[Panel] = PANELS,
) -> None:
    """A heat map a panel; without a choice the relative size of the update, the largest angle, the intruders.

    Matrices that were not trained are light grey, those for which a number means nothing are dark grey, and what a
    block does not have is white. Where several matrices share a block and type (experts), their mean is drawn.

    Args:
        path: PNG file.
        drift: As `stages.drift` measures it.
        matrices: Of the model, as its files have them.
        title: Of the figure.
        panels: Columns, from top to bottom.
    """
    from matplotlib.figure import Figure

    # A model in memory may have joined what its files have apart, such as experts.
    places = [(matrix.type, matrix.block) for matrix in matrices]
    places += list(zip(drift["type"], drift["block"], strict=True))
    kinds = list(dict.fromkeys(kind for kind, _ in places))
    blocks = sorted({block for _, block in places})
    size = (
        1.6 + LETTER * max(map(len, kinds)) + CELL_WIDTH * max(len(blocks), 14),
        0.6 + len(panels) * (0.7 + CELL_HEIGHT * len(kinds)),
    )
    figure = Figure(figsize=size, layout="constrained")
    known = {(kinds.index(kind), blocks.index(block)) for kind, block in places}
    for axes, panel in zip(figure.subplots(len(panels), 1), panels, strict=True):
        values = drift.assign(value=drift[panel.column].astype(float) * panel.scale)
        means = values.groupby(["type", "block"], sort=False)["value"].mean()
        cells = {(kinds.index(str(kind)), blocks.index(block)): value for (kind, block), value in means.items()}  # type: ignore[misc, has-type]
        _draw_panel(axes, panel, cells, known, shape=(len(kinds), len(blocks)))
        axes.set_yticks(range(len(kinds)), kinds, fontsize=8)
        step = max(1, len(blocks) // 16)
        axes.set_xticks(range(0, len(blocks), step), [str(block) for block in blocks[::step]], fontsize=8)
    axes.set_xlabel("block; light grey is not trained", fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    save_figure(figure, path)


def _draw_panel(
    axes: Any,
    panel: Panel,
    cells: dict[tuple[int, int], float],
    known: set[tuple[int, int]],
    *,
    shape: tuple[int, int],
) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize, to_rgb

    finite = [value for value in cells.values() if np.isfinite(value)]
    norm, colours = Normalize(0, max(finite, default=0.0) or 1.0), colormaps["viridis"]
    pixels = np.ones((*shape, 3))
    for place in known:
        pixels[place] = to_rgb(FROZEN)
    for (row, column), value in cells.items():
        pixels[row, column] = colours(norm(value))[:3] if np.isfinite(value) else to_rgb(NULL)
        ink = "black" if pixels[row, column] @ (0.299, 0.587, 0.114) > 0.5 else "white"
        if np.isfinite(value):
            text = panel.form.format(value)
            axes.text(column, row, text, color=ink, fontsize=FONT_SIZE, ha="center", va="center")
    axes.imshow(pixels, aspect="auto")
    axes.set_title(panel.title, loc="left", fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for count, draw in zip(shape, (axes.axhline, axes.axvline), strict=True):
        for edge in range(1, count):
            draw(edge - 0.5, color="white", linewidth=1)
    axes.figure.colorbar(ScalarMappable(norm, colours), ax=axes, pad=0.02)
