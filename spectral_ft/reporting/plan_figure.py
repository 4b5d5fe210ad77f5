"""A plan as a picture: the rank of every matrix over block and module type. matplotlib is imported when it is drawn."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spectral_ft.reporting.drawing import empty_figure, save_figure
from spectral_ft.reporting.rank_map import SIGNS, cell_text, group_letters, plan_grid
from spectral_ft.types import AllocationPlan, MatrixShape

FROZEN = "#e4e2dd"
CELL_HEIGHT = 0.34
"""Inches."""
NOTE_HEIGHT = 0.2
"""Inches, of a line below the figure."""
CELL_WIDTH = 0.27
"""Inches, at least; more where the text of a cell needs it."""
LETTER = 0.062
"""Inches, of a letter in a cell."""
FONT_SIZE = 6.5
"""Points, in a cell."""


def draw_plan(path: Path, plan: AllocationPlan, matrices: Sequence[MatrixShape], *, title: str) -> None:
    """The rank over block and module type, as colour (logarithmic, base 2) and as a number.

    Frozen matrices are grey and what a block does not have is white. Where several matrices share a block
    and type (experts), the colour is of the mean of the adapted ones, and the text goes from the lowest
    rank to the highest. A letter below the rank tells the group, as in the rank map.

    Args:
        path: PNG file.
        plan: Of the model.
        matrices: Of the model.
        title: Of the figure.

    Raises:
        PlanError: If the plan names a matrix that the model does not have.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, to_rgb

    grid, letters = plan_grid(plan, matrices), group_letters(plan)
    blocks = sorted({block for block, _ in grid})
    kinds = list(dict.fromkeys(kind for _, kind in grid))
    texts = {place: "\n".join(filter(None, cell_text(members, letters))) for place, members in grid.items()}
    width = max(CELL_WIDTH, LETTER * (1 + max(len(line) for text in texts.values() for line in text.splitlines())))
    notes = ["one letter: matrices that share factors"] if letters else []
    notes += [meaning for sign, meaning in SIGNS.items() if sign in "".join(texts.values())]
    figure, axes = empty_figure(
        width=1.2 + LETTER * 1.6 * max(map(len, kinds)) + width * max(len(blocks), 12),
        height=1.0 + NOTE_HEIGHT * len(notes) + CELL_HEIGHT * max(len(kinds), 5),
    )
    ranks = [allocation.rank for allocation in plan.adapted] or [1]
    lowest, highest = math.floor(math.log2(min(ranks))), math.ceil(math.log2(max(ranks)))
    highest += lowest == highest  # a scale has two ends
    norm, colours = LogNorm(2**lowest, 2**highest), colormaps["viridis"]
    pixels = np.ones((len(kinds), len(blocks), 3))
    for (block, kind), members in grid.items():
        row, column = kinds.index(kind), blocks.index(block)
        adapted = [member.rank for member in members if member.rank]
        pixels[row, column] = colours(norm(np.mean(adapted)))[:3] if adapted else to_rgb(FROZEN)
        ink = "black" if pixels[row, column] @ (0.299, 0.587, 0.114) > 0.5 else "white"
        if adapted:
            axes.text(column, row, texts[block, kind], color=ink, fontsize=FONT_SIZE, ha="center", va="center")
    axes.imshow(pixels, aspect="auto")
    axes.set_yticks(range(len(kinds)), kinds)
    step = max(1, len(blocks) // 16)
    axes.set_xticks(range(0, len(blocks), step), [str(block) for block in blocks[::step]])
    axes.set_xlabel("\n".join(["block", *notes]), fontsize=9)
    axes.set_title(title, loc="left", fontsize=11)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for edges, draw in ((len(kinds), axes.axhline), (len(blocks), axes.axvline)):
        for edge in range(1, edges):
            draw(edge - 0.5, color="white", linewidth=1)
    if plan.adapted:
        bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, pad=0.02, label="rank; grey is frozen")
        bar.set_ticks([2**power for power in range(lowest, highest + 1)])
        bar.ax.minorticks_off()
        bar.ax.yaxis.set_major_formatter("{x:g}")
    save_figure(figure, path)
