"""Report to what a person looks at and what other tools read: tables, figures, scans."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spectral_ft.allocation.selection import top
from spectral_ft.errors import ConfigError
from spectral_ft.experiment import Experiment
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.models.packed import PACKINGS
from spectral_ft.reporting.report_difference import jaccard, report_difference
from spectral_ft.reporting.spectrum_table import difference_table
from spectral_ft.spectral.marchenko_pastur import density, support
from spectral_ft.spectral.scan import read_scan, write_scan, write_unfrozen
from spectral_ft.stages.spectrum import report_of_matrices, report_with_spectra
from spectral_ft.storage import csv_text, read_report, write_report, write_text
from spectral_ft.types import MatrixSpectrum, SpectralReport

if TYPE_CHECKING:
    from spectral_ft.reporting.spectral_figures import NoiseFit

CURVE_POINTS = 400


def inspected_report(experiment: Experiment, checkpoint: Checkpoint | None, folder: Path) -> SpectralReport:
    """The report that `analyze` shows: of a checkpoint, or of a published scan.

    Args:
        experiment: Its components.
        checkpoint: Of the model; None takes the scan.
        folder: Of the run.

    Returns:
        The report, which is also `spectrum.parquet`.
    """
    if checkpoint is not None:
        return report_with_spectra(experiment.model.label, checkpoint, experiment.spectrum, folder)
    report = read_scan(Path(str(experiment.analysis.scan)).expanduser())
    write_report(folder / "spectrum.parquet", report)
    return report


def check_columns(experiment: Experiment, report: SpectralReport) -> None:
    """Check that the columns which were asked for are there.

    Args:
        experiment: Its components.
        report: The report.

    Raises:
        ConfigError: If one is not.
    """
    known = report.matrices[0].columns
    wanted = [*experiment.analysis.columns, experiment.analysis.column]
    if experiment.analysis.scan is not None:
        wanted = [experiment.analysis.column]  # the default heat maps are of columns that no scan has
    for column in wanted:
        if column not in known:
            raise ConfigError(f"analysis: the report has no column {column!r}; it has {', '.join(known)}.")


def export(experiment: Experiment, report: SpectralReport, folder: Path) -> list[Path]:
    """Write what other tools read.

    Args:
        experiment: Its components.
        report: The report.
        folder: Of the run.

    Returns:
        The files.
    """
    written = []
    for form in experiment.analysis.export:
        if form == "spectrum":
            path = folder / f"snr_results_{re.sub(r'[^A-Za-z0-9._-]+', '-', report.model)}.json"
            write_scan(path, report)
        else:
            path = folder / "unfrozen_parameters.yaml"
            write_unfrozen(path, _selected(experiment, report), report, embeddings=experiment.analysis.embeddings)
        written.append(path)
    return written


def compare(experiment: Experiment, checkpoint: Checkpoint | None, report: SpectralReport, folder: Path) -> str:
    """How far metrics and the selection move when the weights are packed, or in another report.

    Args:
        experiment: Its components.
        checkpoint: Of the model; None where the report is a scan.
        report: The report.
        folder: Of the run; `spectrum-drift.csv` and the report of the packed weights are left there.

    Returns:
        Text for a terminal.

    Raises:
        ConfigError: If `drift` names neither a packing nor a file.
    """
    other = str(experiment.analysis.drift)
    packing = next((known for known in PACKINGS if known == other), None)
    if packing:
        if checkpoint is None:
            raise ConfigError(f"analysis.drift={packing} needs the weights, and analysis.scan has none: leave one out.")
        checkpoint = replace(checkpoint, dequantize=experiment.spectrum.dequantize)
        after = report_of_matrices(
            f"{report.model} in {packing}",
            checkpoint.block_matrices,
            experiment.spectrum,
            fingerprint=checkpoint.fingerprint,
            packing=packing,
        )
        write_report(folder / f"spectrum-{packing}.parquet", after)
    elif Path(other).expanduser().is_file():
        after = read_report(Path(other).expanduser())
    else:
        raise ConfigError(
            f"analysis.drift={other!r} is neither {', '.join(PACKINGS)} nor a file: name the spectrum.parquet of "
            "another run."
        )
    moved = report_difference(report, after)
    write_text(folder / "spectrum-drift.csv", csv_text(moved, index_label="metric"))
    options = experiment.analysis
    overlap = jaccard(_selected(experiment, report), _selected(experiment, after))
    selected_by = f"{options.column}, top {100 * options.top_fraction:g} % of each type"
    return difference_table(moved, before=report.model, after=after.model, selected_by=selected_by, jaccard=overlap)


def draw(experiment: Experiment, report: SpectralReport, folder: Path) -> list[Path]:
    """Draw what can be drawn of a report.

    Args:
        experiment: Its components.
        report: The report.
        folder: Of the run.

    Returns:
        The figures, in `figures/`.
    """
    from spectral_ft.reporting import spectral_figures as figures

    target = folder / "figures"
    drawn: list[Path] = []
    for column in experiment.analysis.columns:
        if column in report.matrices[0].columns:
            drawn.append(target / f"heat-map-{column}.png")
            figures.draw_heat_map(drawn[-1], report, column)
        if f"{column}_null" in report.matrices[0].columns:
            drawn.append(target / f"null-{column}.png")
            figures.draw_beside_null(drawn[-1], report, column)
    chosen = _chosen(report, experiment.analysis.matrices)
    if chosen:
        drawn.append(target / "tails.png")
        figures.draw_tails(drawn[-1], chosen, title=f"tails of {report.model}")
        drawn.append(target / "spectra.png")
        fits = [(spectrum, _noise_fit(spectrum)) for spectrum in chosen]
        figures.draw_spectra(drawn[-1], fits, title=f"spectra of {report.model}")
    return drawn


def _selected(experiment: Experiment, report: SpectralReport) -> set[str]:
    options = experiment.analysis
    return top(report.matrices, column=options.column, fraction=options.top_fraction, scope="per_type")


def _chosen(report: SpectralReport, pattern: str | None) -> list[MatrixSpectrum]:
    with_spectra = [spectrum for spectrum in report.matrices if spectrum.singular_values is not None]
    if pattern is not None:
        try:
            found = [spectrum for spectrum in with_spectra if re.search(pattern, spectrum.matrix.name)]
        except re.error as error:
            raise ConfigError(f"analysis.matrices={pattern!r} is no regular expression: {error}.") from error
        if not found and with_spectra:
            raise ConfigError(
                f"analysis.matrices={pattern!r} finds none of the {len(with_spectra)} matrices; a name is "
                f"{with_spectra[0].matrix.name}."
            )
        return found
    blocks = sorted({spectrum.matrix.block for spectrum in with_spectra})
    middle = blocks[len(blocks) // 2] if blocks else 0
    by_type: dict[str, MatrixSpectrum] = {}
    for spectrum in sorted(with_spectra, key=lambda spectrum: abs(spectrum.matrix.block - middle)):
        by_type.setdefault(spectrum.matrix.type, spectrum)
    return list(by_type.values())


def _noise_fit(spectrum: MatrixSpectrum) -> "NoiseFit | None":
    from spectral_ft.reporting.spectral_figures import NoiseFit

    std, edge = spectrum.columns["noise_std"], spectrum.columns["bulk_edge"]
    if std is None or edge is None:
        return None
    m, n = sorted(spectrum.matrix.sides)
    spikes = int(spectrum.columns["num_spikes_calibrated"] or 0)
    unit = std * math.sqrt(n)
    # With the spikes set aside the rest is noise of (m - r, n - r).
    beta, shrink = (m - spikes) / (n - spikes), math.sqrt((n - spikes) / n)
    low, high = support(beta)
    x = np.linspace(max(math.sqrt(low), 1e-6), math.sqrt(high), CURVE_POINTS)
    curve = 2 * x * density(x**2, beta) * (m - spikes) / m
    return NoiseFit(unit, math.sqrt(edge) / unit, x * shrink, curve / shrink)
