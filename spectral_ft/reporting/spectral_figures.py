"""Figures of a report, to be read at a glance. matplotlib is imported when one is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from spectral_ft.reporting.drawing import empty_figure, save_figure
from spectral_ft.types import MatrixSpectrum, SpectralReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BULK, SIGNAL, LAW = "#8da0b3", "#c8452f", "#1f3b57"
UNDEFINED = "#e4e2dd"
PANELS_A_ROW = 4


@dataclass(frozen=True)
class NoiseFit:
    """The Marchenko-Pastur law that was fitted to a matrix, as a curve to draw."""

    unit: float
    """`noise_std sqrt(n)`, in which the rest is given."""
    edge: float
    """Of singular values."""
    x: np.ndarray
    density: np.ndarray
    """Of the singular values at `x`, as a share of all of them."""


def draw_heat_map(path: Path, report: SpectralReport, column: str) -> None:
    """A column over block and module type.

    Where several matrices share a block and type (experts), their mean is drawn. Grey is undefined; a
    dot marks an infinite value of an imported scan.

    Args:
        path: PNG file.
        report: The report.
        column: One of its columns.
    """
    from matplotlib.colors import LogNorm

    frame = report.frame()
    values = frame[column].astype(float)
    infinite = np.isinf(values)
    frame = frame.assign(value=values.where(~infinite), infinite=infinite)
    grid = frame.pivot_table(index="type", columns="block", values="value", aggfunc="mean", sort=False, dropna=False)
    marks = frame.pivot_table(index="type", columns="block", values="infinite", aggfunc="any", sort=False)
    grid = grid.sort_index(axis=1)
    marks = marks.reindex(index=grid.index, columns=grid.columns)
    figure, axes = empty_figure(width=2.6 + 0.27 * max(len(grid.columns), 12), height=1.5 + 0.38 * len(grid))
    known = grid.to_numpy()[np.isfinite(grid.to_numpy())]
    wide = len(known) > 0 and known.min() > 0 and known.max() / known.min() > 30
    axes.set_facecolor(UNDEFINED)
    image = axes.imshow(
        np.ma.masked_invalid(grid.to_numpy()), aspect="auto", cmap="viridis", norm=LogNorm() if wide else None
    )
    for row, mark in enumerate(marks.to_numpy()):
        axes.plot(np.flatnonzero(mark == True), [row] * int((mark == True).sum()), ".", color=SIGNAL)  # noqa: E712
    axes.set_yticks(range(len(grid)), list(grid.index))
    step = max(1, len(grid.columns) // 16)
    axes.set_xticks(range(0, len(grid.columns), step), [str(block) for block in grid.columns[::step]])
    axes.set_xlabel("block")
    axes.set_title(f"{column} of {report.model}", loc="left", fontsize=11)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, pad=0.02, label="logarithmic" if wide else "")
    save_figure(figure, path)


def draw_spectra(path: Path, fits: Sequence[tuple[MatrixSpectrum, NoiseFit | None]], *, title: str) -> None:
    """Histograms of singular values with the Marchenko-Pastur density, the edge and the spikes.

    Args:
        path: PNG file.
        fits: One a panel: a matrix with singular values, and its noise, or None where it has no fit.
        title: Of the figure.
    """
    figure, panels = _panels(len(fits))
    handles: dict[str, Any] = {}
    for axes, (spectrum, fit) in zip(panels, fits, strict=True):
        s = spectrum.singular_values if spectrum.singular_values is not None else np.zeros(1)
        unit = fit.unit if fit else float(np.sqrt(np.mean(s**2))) or 1.0
        scaled = s / unit
        right = min(scaled[0] * 1.03, 2.2 * fit.edge) if fit else max(scaled[0], 1e-9) * 1.03
        bins = np.linspace(0, right, 60)
        weights = np.full(len(s), 1 / len(s) / (bins[1] - bins[0]))
        handles["singular values"] = axes.hist(scaled, bins, weights=weights, color=BULK)[2]
        if fit:
            spikes = scaled[scaled > fit.edge]
            shown = spikes[spikes <= right]
            (handles["Marchenko-Pastur"],) = axes.plot(fit.x, fit.density, color=LAW, linewidth=1.6)
            handles["edge"] = axes.axvline(fit.edge, color=SIGNAL, linestyle="--", linewidth=1)
            (handles["spikes"],) = axes.plot(
                shown, np.zeros(len(shown)), "|", color=SIGNAL, markersize=10, clip_on=False
            )
            beyond = f"\n{len(spikes) - len(shown)} beyond" if len(shown) < len(spikes) else ""
            text = f"{len(spikes)} spikes{beyond}\nlargest {scaled[0]:.1f}"
        else:
            text = f"no fit\nlargest {scaled[0]:.1f}"
        axes.text(0.98, 0.97, text, transform=axes.transAxes, ha="right", va="top", fontsize=7)
        axes.set_xlim(0, right)
        axes.set_title(_short(spectrum), loc="left", fontsize=8)
        axes.set_yticks([])
    figure.legend(list(handles.values()), list(handles), loc="outside lower right", fontsize=7, ncols=4, frameon=False)
    figure.supxlabel("singular value / (noise std x sqrt n)", fontsize=9, x=0.3)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    save_figure(figure, path)


def draw_tails(path: Path, spectra: Sequence[MatrixSpectrum], *, title: str) -> None:
    """The share of eigenvalues above each value, with the fitted power law from `x_min` on.

    Args:
        path: PNG file.
        spectra: One a panel, with singular values.
        title: Of the figure.
    """
    figure, panels = _panels(len(spectra))
    for axes, spectrum in zip(panels, spectra, strict=True):
        eigenvalues = np.sort(spectrum.singular_values**2) if spectrum.singular_values is not None else np.empty(0)
        above = 1 - np.arange(len(eigenvalues)) / len(eigenvalues)
        drawn = eigenvalues > eigenvalues[-1] * 1e-8
        axes.loglog(eigenvalues[drawn], above[drawn], ".", markersize=2.5, color=BULK, label="eigenvalues")
        alpha, start = spectrum.columns.get("alpha_pl"), spectrum.columns.get("x_min")
        if alpha is not None and start is not None:
            tail = np.geomspace(start, eigenvalues[-1], 50)
            share = np.mean(eigenvalues >= start)
            axes.loglog(tail, share * (tail / start) ** (1 - alpha), color=LAW, linewidth=1.6, label="power law")
            axes.axvline(start, color=SIGNAL, linestyle="--", linewidth=1, label="x_min")
            distance = spectrum.columns["ks_distance"]
            text = f"alpha {alpha:.2f}\nKS {distance:.3f}"
        else:
            text = spectrum.reasons.get("alpha_pl", "no fit")
        axes.text(0.04, 0.06, text, transform=axes.transAxes, fontsize=7)
        axes.set_title(_short(spectrum), loc="left", fontsize=8)
        axes.minorticks_off()
    panels[0].legend(fontsize=6, loc="upper right", frameon=False)
    figure.supxlabel("eigenvalue", fontsize=9)
    figure.supylabel("share of eigenvalues at or above", fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    save_figure(figure, path)


def draw_beside_null(path: Path, report: SpectralReport, column: str) -> None:
    """A metric of each matrix against what it is after its entries were shuffled.

    Above the diagonal the structure of the matrix raises the metric, below it lowers it.

    Args:
        path: PNG file.
        report: With `COLUMN_null`.
        column: One of its columns.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    frame = report.frame()
    frame = frame.assign(x=frame[f"{column}_null"].astype(float), y=frame[column].astype(float)).dropna(
        subset=["x", "y"]
    )
    figure, axes = empty_figure(width=6.2, height=5.0)
    if frame.empty:
        axes.text(0.5, 0.5, "undefined for every matrix", ha="center", transform=axes.transAxes)
    else:
        both = pd.concat([frame["x"], frame["y"]])
        if both.min() > 0:
            axes.set_xscale("log")
            axes.set_yscale("log")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                axis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axis.set_minor_formatter(NullFormatter())
        ends = [both.min(), both.max()]
        axes.plot(ends, ends, color=LAW, linewidth=1, linestyle="--")
        for kind, rows in frame.groupby("type", sort=False):
            axes.plot(rows["x"], rows["y"], "o", markersize=4, alpha=0.75, label=str(kind))
        lower = int((frame["y"] < frame["x"]).sum())
        axes.legend(fontsize=7, frameon=False)
        axes.text(
            0.98, 0.02, f"below the line: {lower} of {len(frame)}", transform=axes.transAxes, ha="right", fontsize=8
        )
    axes.set_xlabel(f"{column} of the shuffled matrix")
    axes.set_ylabel(f"{column} of the matrix")
    axes.set_title(f"{column} of {report.model} beside its null", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def _panels(count: int) -> "tuple[Figure, list[Any]]":
    from matplotlib.figure import Figure

    columns = min(PANELS_A_ROW, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(2.9 * columns, 0.6 + 2.2 * rows), layout="constrained")
    panels = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for empty in panels[count:]:
        empty.set_visible(False)
    for axes in panels[:count]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
    return figure, panels[:count]


def _short(spectrum: MatrixSpectrum) -> str:
    rows, cols = spectrum.matrix.sides
    return f"{spectrum.matrix.type}, block {spectrum.matrix.block} ({rows} x {cols})"
