"""How far training moved the weights, as heat maps and medians."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from spectral_ft.errors import SpectralFTError
from spectral_ft.reporting.drift_figure import PANELS
from spectral_ft.reporting.page.arms import Arm, run_name
from spectral_ft.reporting.page.heat_maps import heat_map
from spectral_ft.reporting.page.places import Place, read_frame
from spectral_ft.reporting.page.texts import NONE
from spectral_ft.reporting.page.views import HeatMap, Section, Table
from spectral_ft.reporting.records import RunFolder

MEDIANS = {
    "relative_frobenius": "|update| / |W|",
    "angle_left": "largest angle, degrees",
    "mean_angle_left": "mean angle, degrees",
    "energy": "energy in the top",
}
"""Columns of `drift.parquet` of which the median over matrices and seeds is shown (docs/drift.md)."""
DEGREES = {"angle_left", "mean_angle_left"}

Frames = list[tuple[RunFolder, pd.DataFrame]]


def read_drifts(arms: Sequence[Arm]) -> tuple[dict[str, Frames], list[str]]:
    """The drift of all runs that measured it.

    Args:
        arms: With their runs.

    Returns:
        Arm's name to its runs and tables; sentences of what is damaged.
    """
    found: dict[str, Frames] = {}
    notes = []
    for arm in arms:
        for run in arm.runs:
            try:
                frame = read_frame(run, "drift.parquet")
            except SpectralFTError as error:
                notes.append(f"{run_name(run)}: {error}")
                continue
            if frame is not None:
                found.setdefault(arm.name, []).append((run, frame))
    return found, notes


def drifts_section(found: dict[str, Frames], notes: Sequence[str], *, places: Mapping[str, Sequence[Place]]) -> Section:
    """The drift of every arm.

    Args:
        found: As `read_drifts` gives it.
        notes: Likewise.
        places: Arm's name to where all matrices of its model stand; those without drift were not trained.

    Returns:
        Medians as a table, and heat maps of each arm's first seed.
    """
    rows = [_medians(name, [frame for _, frame in frames]) for name, frames in found.items()]
    headings = ("arm", "matrices", *MEDIANS.values(), "intruder dimensions", "seeds")
    return Section(
        id="drift",
        title="Drift of the weights",
        lead="Medians over matrices and seeds; intruders are counted over all matrices. Maps are of the first seed."
        if rows
        else "",
        tables=(Table("drift", headings, tuple(rows)),) if rows else (),
        maps=tuple(each for name, frames in found.items() for each in _maps(name, frames[0][1], places.get(name, ()))),
        notes=tuple(notes),
    )


def _medians(name: str, frames: Sequence[pd.DataFrame]) -> tuple[str, ...]:
    every = pd.concat(frames)
    cells = []
    for column in MEDIANS:
        values = every[column].astype(float).dropna() if column in every else pd.Series(dtype=float)
        scale = 180 / np.pi if column in DEGREES else 1.0
        cells.append(f"{scale * values.median():.3g}" if len(values) else NONE)
    intruders = f"{every['intruders_left'].astype(float).sum() / len(frames):.3g}"
    return name, str(len(frames[0])), *cells, intruders, str(len(frames))


def _maps(name: str, frame: pd.DataFrame, places: Sequence[Place]) -> list[HeatMap]:
    at = [(str(kind), int(block)) for kind, block in zip(frame["type"], frame["block"], strict=True)]
    return [
        heat_map(
            f"{name}: {panel.title}",
            list(zip(at, frame[panel.column].astype(float) * panel.scale, strict=True)),
            places=places,
            form=panel.form.format,
        )
        for panel in PANELS
        if panel.column in frame
    ]
