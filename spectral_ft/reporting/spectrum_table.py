"""A report, and how far it moved, as tables for a terminal."""

import pandas as pd
from rich.table import Table

from spectral_ft.reporting.terminal import as_text
from spectral_ft.types import SpectralReport

SHOWN = ("snr", "snr_mp", "alpha_hill", "alpha_pl", "num_spikes", "num_spikes_calibrated", "stable_rank")


def spectrum_table(report: SpectralReport) -> str:
    """The median of each metric by module type.

    Args:
        report: Of a model.

    Returns:
        Text for a terminal.
    """
    frame = report.frame()
    columns = [column for column in SHOWN if column in frame]
    table = Table(title=f"{report.model}: medians over {len(frame)} matrices by module type", title_justify="left")
    for heading in ("type", "matrices", "shape", *(column.replace("_calibrated", "_cal.") for column in columns)):
        table.add_column(heading, justify="left" if heading == "type" else "right")
    for kind, rows in frame.groupby("type", sort=False):
        shapes = rows[["rows", "cols"]].drop_duplicates().dropna()
        shape = " ".join(f"{row.rows:.0f} x {row.cols:.0f}" for row in shapes.itertuples()) or "-"
        medians = (rows[column].astype(float).median() for column in columns)
        table.add_row(str(kind), str(len(rows)), shape, *("-" if pd.isna(m) else f"{m:.4g}" for m in medians))
    return as_text(table)


def difference_table(difference: pd.DataFrame, *, before: str, after: str, selected_by: str, jaccard: float) -> str:
    """How far each metric moved.

    Args:
        difference: As `reporting.report_difference` gives it.
        before: What the first report is called.
        after: What the second is called.
        selected_by: What the selections were made by.
        jaccard: Overlap of the selections, in [0, 1].

    Returns:
        Text for a terminal.
    """
    table = Table(title=f"from {before} to {after}", title_justify="left")
    for heading in ("metric", "matrices", "Spearman", "median change", "largest change"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for metric, row in difference.iterrows():
        spearman = "-" if pd.isna(row["spearman"]) else f"{row['spearman']:.4f}"
        changes = (float(row[name]) for name in ("median_change", "largest_change"))
        shown = ("-" if pd.isna(change) else f"{100 * change:.2f} %" for change in changes)
        table.add_row(str(metric), f"{row['matrices']:.0f}", spearman, *shown)
    return as_text(table) + f"selected by {selected_by}: Jaccard {jaccard:.3f} between the two selections\n"
