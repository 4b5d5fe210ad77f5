"""The spectra of an adapter's updates, and two adapters next to each other, as tables and figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from spectral_ft.reporting.drawing import empty_figure, save_figure
from spectral_ft.reporting.drift_figure import Panel, draw_drift
from spectral_ft.reporting.terminal import as_text
from spectral_ft.types import MatrixShape

SHOWN = {
    "frobenius_norm": "norm",
    "spectral_norm": "s_1",
    "rank_90": "rank 90 %",
    "rank_99": "rank 99 %",
    "stable_rank": "stable rank",
    "effective_rank": "effective",
    "used": "used",
    "num_spikes": "spikes",
    "relative_frobenius": "norm / W",
    "intruders_left": "intruders",
}
PAIRED = {
    "top": "top",
    "mean_angle_left": "mean angle left, deg",
    "mean_angle_right": "right, deg",
    "cosine": "cosine",
    "interference": "interference",
    "interference_back": "and back",
    "sum_rank_90": "sum: rank 90 %",
}
PANELS = (
    Panel("rank_90", "rank that keeps 90 % of the squared singular values", "{:.0f}"),
    Panel("energy_share", "share of the squared norm of all updates, percent", "{:.2g}", 100.0),
)
COORDINATES = ("name", "type", "block", "rows", "cols")
BASE_PANEL = Panel("relative_frobenius", "|update| / |W|, Frobenius norm", "{:.2g}")


def update_table(frame: pd.DataFrame, suggestion: Mapping[str, Any], *, title: str) -> str:
    """Medians by module type, what is not used, and the suggestion.

    Args:
        frame: As `stages.updates.audited` gives it.
        suggestion: As `stages.updates.suggested` gives it.
        title: What the adapter is called.

    Returns:
        Text for a terminal.
    """
    columns = {column: heading for column, heading in SHOWN.items() if column in frame}
    table = Table(title=f"{title}: medians over {len(frame)} updates by module type", title_justify="left")
    for heading in ("type", "updates", "rank", *columns.values()):
        table.add_column(heading, justify="left" if heading == "type" else "right")
    for kind, rows in frame.groupby("type", sort=False):
        ranks = sorted(set(rows["rank"]))
        rank = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}"
        medians = (rows[column].astype(float).median() for column in columns)
        table.add_row(str(kind), str(len(rows)), rank, *("-" if pd.isna(m) else f"{m:.3g}" for m in medians))
    lines = [as_text(table)]
    if dead := frame.loc[frame["dead"], "name"].tolist():
        more = f" and {len(dead) - 5} more" if len(dead) > 5 else ""
        lines.append(f"dead updates (no share of the norm): {', '.join(dead[:5])}{more}\n")
    if tied := int(frame[["tied_A", "tied_B"]].notna().any(axis=1).sum()):
        lines.append(f"{tied} updates share a factor with an earlier one (columns tied_A, tied_B)\n")
    said = suggestion["spectral_ft"]
    lines.append(
        f"suggested by {said['rule']}: {said['parameters']:,} of {said['parameters_before']:,} parameters, "
        f"{said['matrices']} of {len(frame)} matrices, {100 * said['energy_kept']:.2f} % of the squared norm\n"
    )
    return "".join(lines)


def pair_table(frame: pd.DataFrame, one: str, other: str) -> str:
    """Medians by module type of two adapters compared.

    Args:
        frame: As `stages.updates.paired` gives it.
        one: What the first is called.
        other: What the second is called.

    Returns:
        Text for a terminal.
    """
    table = Table(title=f"{one} and {other}: medians over {len(frame)} matrices", title_justify="left")
    for heading in ("type", "matrices", *PAIRED.values()):
        table.add_column(heading, justify="left" if heading == "type" else "right")
    for kind, rows in frame.groupby("type", sort=False):
        shown = []
        for column in PAIRED:
            median = rows[column].astype(float).median() * (180 / np.pi if "angle" in column else 1)
            shown.append("-" if pd.isna(median) else f"{median:.3g}")
        table.add_row(str(kind), str(len(rows)), *shown)
    return as_text(table)


def draw_updates(folder: Path, frame: pd.DataFrame, *, title: str) -> list[Path]:
    """Heat maps over block and module type, and the singular values by type.

    Args:
        folder: Gets the figures.
        frame: As `stages.updates.audited` gives it.
        title: What the adapter is called.

    Returns:
        The files.
    """
    maps, spectra = folder / "update-map.png", folder / "update-spectra.png"
    matrices = [
        MatrixShape(name=name, type=kind, side="unknown", block=block, shape=(rows, cols))
        for name, kind, block, rows, cols in zip(*(frame[c] for c in COORDINATES), strict=True)
    ]
    panels = (*PANELS, *([BASE_PANEL] if "relative_frobenius" in frame else []))
    draw_drift(maps, frame, matrices, title=f"updates of {title}", panels=panels)
    figure, axes = empty_figure(width=6.4, height=4.2)
    for kind, rows in frame.groupby("type", sort=False):
        curves = [values / values[0] for values in rows["singular_values"] if values[0] > 0]
        if not curves:
            continue
        length = min(map(len, curves))
        median = np.median([curve[:length] for curve in curves], axis=0)
        shown = median > 0
        axes.semilogy(np.arange(1, length + 1)[shown], median[shown], marker=".", linewidth=1, label=str(kind))
    axes.set_xlabel("number of the singular value")
    axes.set_ylabel("singular value over the largest, median of a type")
    axes.set_title(f"updates of {title}", loc="left", fontsize=10)
    axes.legend(fontsize=7)
    save_figure(figure, spectra)
    return [maps, spectra]


def draw_curve(path: Path, points: pd.DataFrame, *, title: str) -> None:
    """Each metric against the parameters that were kept, a line a weighting.

    Args:
        path: PNG file.
        points: As `stages.compression` leaves them in `curve.csv`.
        title: What the adapter is called.
    """
    from matplotlib.figure import Figure

    panels = list(points.groupby(["task", "metric", "extractor"], sort=False))
    figure = Figure(figsize=(6.0, 0.6 + 2.6 * len(panels)), layout="constrained")
    for axes, (names, rows) in zip(np.atleast_1d(figure.subplots(len(panels), 1)), panels, strict=True):
        for weighting, line in rows.groupby("weighting", sort=False):
            ordered = line.sort_values("parameters")
            errors = ordered["stderr"].astype(float).fillna(0)
            axes.errorbar(ordered["parameters"], ordered["value"], errors, marker=".", capsize=2, label=str(weighting))
        axes.set_xscale("log")
        axes.set_title(" ".join(map(str, names)), loc="left", fontsize=9)
        axes.legend(fontsize=7, title="weighting", title_fontsize=7)
    axes.set_xlabel("parameters; bars are one standard error")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    save_figure(figure, path)
