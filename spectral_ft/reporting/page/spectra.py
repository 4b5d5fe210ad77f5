"""The spectra that plans were made from, as heat maps; each checkpoint once."""

import json
from collections.abc import Sequence

import pandas as pd

from spectral_ft.errors import SpectralFTError
from spectral_ft.reporting.page.arms import Arm, run_name
from spectral_ft.reporting.page.heat_maps import UNDEFINED, heat_map
from spectral_ft.reporting.page.places import read_frame
from spectral_ft.reporting.page.views import Section
from spectral_ft.reporting.records import RunFolder

COLUMNS = {
    "snr": "signal-to-noise ratio",
    "num_spikes_calibrated": "spikes above the noise",
    "effective_rank": "effective rank",
    "stable_rank": "stable rank",
    "alpha_hill": "tail exponent (Hill)",
}
"""Columns of `spectrum.parquet` that are drawn (docs/spectra.md)."""
FILE = "spectrum.parquet"


def spectra_section(arms: Sequence[Arm]) -> tuple[Section, list[pd.DataFrame]]:
    """Heat maps of the spectra.

    Args:
        arms: With their runs.

    Returns:
        The section, and the reports: one a checkpoint, that of the run which has the most columns.
    """
    best: dict[str, tuple[RunFolder, pd.DataFrame]] = {}
    notes = []
    for run in (run for arm in arms for run in arm.runs):
        try:
            frame = read_frame(run, FILE, columns=("name", "type", "block", *COLUMNS))
            if frame is None:
                continue
            model = _model(run)
        except SpectralFTError as error:
            notes.append(f"{run_name(run)}: {error}")
            continue
        if model not in best or frame.notna().to_numpy().sum() > best[model][1].notna().to_numpy().sum():
            best[model] = (run, frame)
    maps = [
        heat_map(
            f"{label} of {model.partition(' ')[0]}" if len(best) > 1 else label,
            list(zip(zip(frame["type"], frame["block"], strict=True), frame[column].astype(float), strict=True)),
            places=(),
        )
        for model, (_, frame) in best.items()
        for column, label in COLUMNS.items()
        if column in frame and frame[column].notna().any()
    ]
    section = Section(
        id="spectra",
        title="Spectra",
        lead=f"Of the weights before training, over module type and block; {UNDEFINED} is undefined." if maps else "",
        maps=tuple(maps),
        notes=tuple(notes),
    )
    return section, [frame for _, frame in best.values()]


def _model(run: RunFolder) -> str:
    # Name and fingerprint of the checkpoint, out of the head that `storage.write_report` writes.
    import pyarrow.parquet as pq

    from spectral_ft.storage import REPORT_KEY

    head = json.loads((pq.read_schema(run.folder / FILE).metadata or {}).get(REPORT_KEY, b"{}"))
    return f"{head.get('model', '')} {head.get('fingerprint', '')}"
