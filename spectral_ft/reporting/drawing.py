"""An empty figure, and a figure as a file. matplotlib is imported when one is drawn."""

from pathlib import Path
from typing import TYPE_CHECKING

from spectral_ft.storage import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150


def empty_figure(*, width: float, height: float) -> "tuple[Figure, Axes]":
    """A figure with one panel.

    Args:
        width: Inches.
        height: Inches.

    Returns:
        The figure and its panel.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, atomically.

    Args:
        figure: The figure.
        path: File.
    """
    with replacing(path, durable=False) as part:
        figure.savefig(part, format="png", dpi=DPI)
