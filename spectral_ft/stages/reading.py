"""What plans are made from: the spectra where a policy reads them, shapes where not, and the probe where asked for."""

from collections.abc import Sequence
from pathlib import Path

from spectral_ft.errors import CheckpointError
from spectral_ft.experiment import Experiment, PlanParts, columns_read
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.stages.base import HeldBase, blueprint
from spectral_ft.stages.probe import joined, probe
from spectral_ft.stages.spectrum import report_of_shapes, sound_report
from spectral_ft.types import PROBE_COLUMNS, MatrixSpectrum, Probe, SpectralReport


def what_plans_read(
    experiment: Experiment,
    checkpoint: Checkpoint,
    *,
    parts: Sequence[PlanParts],
    folder: Path,
    held: HeldBase | None = None,
) -> tuple[SpectralReport, Probe | None]:
    """Report and probe, each only as far as something asks for it.

    Args:
        experiment: Its components.
        checkpoint: Of the base; its `config.json` alone is enough where only shapes are read.
        parts: Of the plans that are to be made.
        folder: Of the run; what lies there is read.
        held: Lends the base to the probe; None loads one for it alone.

    Returns:
        The report with all columns that are asked for, and the probe; None where nothing asks for one.

    Raises:
        CheckpointError: If columns are asked for and there are no weights.
    """
    read = columns_read(parts)
    if not checkpoint.has_weights:
        check_weights(checkpoint, parts)
        return report_without_weights(experiment, checkpoint), None
    if read - set(PROBE_COLUMNS):
        report = sound_report(experiment.model.label, checkpoint, experiment.spectrum, folder)
    else:
        report = report_of_shapes(experiment.model.label, checkpoint, experiment.spectrum)
    found = probe(
        experiment, checkpoint, report, parts=parts, folder=folder, held=held or HeldBase(experiment, checkpoint)
    )
    return joined(report, found), found


def check_weights(checkpoint: Checkpoint, parts: Sequence[PlanParts]) -> None:
    """Check that a checkpoint on this disk has weights, if plans read them."""
    if checkpoint.has_weights or not reads_weights(parts):
        return
    needed = sorted(columns_read(parts)) or ["gradient sketches"]
    raise CheckpointError(
        f"{checkpoint.folder} holds config.json and no weights, and the plan needs {', '.join(needed)} of them: "
        "give the whole checkpoint, or a policy that needs shapes only (uniform, depth)."
    )


def check_description(experiment: Experiment, checkpoint: Checkpoint) -> None:
    """Check what a model says of itself, before its weights are fetched.

    Args:
        experiment: Its components.
        checkpoint: Of the base; its weights are not read.

    Raises:
        CheckpointError: If the tokenizer cannot be used, or the architecture is unknown.
        ConfigError: If no matrix is chosen.
    """
    from spectral_ft.models.loading import load_tokenizer

    source = experiment.model
    load_tokenizer(checkpoint.folder, kind=source.kind, trust_remote_code=source.trust_remote_code)
    if not checkpoint.has_weights:
        report_without_weights(experiment, checkpoint)


def reads_weights(parts: Sequence[PlanParts]) -> bool:
    """Whether plans read anything but the shapes of the matrices.

    Args:
        parts: Of the plans.

    Returns:
        True if one of them reads spectra or what a probe shows.
    """
    return bool(columns_read(parts)) or any(each.grouping.reads_sketches for each in parts)


def report_without_weights(experiment: Experiment, checkpoint: Checkpoint) -> SpectralReport:
    """The matrices that `config.json` describes.

    Args:
        experiment: Its components.
        checkpoint: Of the base.

    Returns:
        The report, without spectra and columns.
    """
    from spectral_ft.models.loaded import loaded_matrices

    matrices = experiment.spectrum.choose(loaded_matrices(blueprint(experiment, checkpoint)).matrices)
    shapes = tuple(MatrixSpectrum(matrix, None, {}) for matrix in matrices)
    return SpectralReport(model=experiment.model.label, fingerprint="", settings={}, matrices=shapes)
