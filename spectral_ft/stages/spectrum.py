"""Checkpoint to `spectrum.parquet`."""

import logging
import time
from dataclasses import replace
from pathlib import Path

from spectral_ft.errors import CheckpointError
from spectral_ft.models.block_matrices import BlockMatrices
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.models.packed import Packing, rounded
from spectral_ft.spectral.analysis import analyse
from spectral_ft.spectral.cache import SpectrumCache
from spectral_ft.spectral.settings import SpectrumSettings
from spectral_ft.storage import stored
from spectral_ft.types import MatrixSpectrum, SpectralReport

log = logging.getLogger(__name__)


def report_with_spectra(model: str, checkpoint: Checkpoint, settings: SpectrumSettings, folder: Path) -> SpectralReport:
    """Singular values and metrics of every matrix.

    Args:
        model: What records call it.
        checkpoint: Whose matrices are analysed.
        settings: Which of them, how, and where singular values are kept.
        folder: Of the run; a report without a fault that lies there is read.

    Returns:
        The report. Of a damaged matrix it has a fault.
    """
    checkpoint = replace(checkpoint, dequantize=settings.dequantize)
    return stored(
        folder / "spectrum.parquet",
        SpectralReport,
        lambda: report_of_matrices(model, checkpoint.block_matrices, settings, fingerprint=checkpoint.fingerprint),
        complete=lambda report: not any(spectrum.fault for spectrum in report.matrices),
    )


def report_of_matrices(
    model: str,
    matrices: BlockMatrices,
    settings: SpectrumSettings,
    *,
    fingerprint: str | None,
    packing: Packing | None = None,
) -> SpectralReport:
    """Singular values and metrics of the matrices of a checkpoint, or of a loaded model.

    Args:
        model: What records call it.
        matrices: The matrices.
        settings: Which of them, how, and where singular values are kept.
        fingerprint: Of the weights; None keeps nothing in the cache.
        packing: Analyse what is left of them after they were packed so; None takes them as they
            are.

    Returns:
        The report. Of a damaged matrix it has a fault.
    """
    began = time.perf_counter()
    how = settings.analysis
    key = f"{fingerprint}-{packing}" if packing else fingerprint
    folder = settings.cache_folder if key else None
    spectra, computed = analyse(
        settings.choose(matrices.matrices),
        (lambda matrix: rounded(matrices.read(matrix), packing)) if packing else matrices.read,
        cache=SpectrumCache(folder, str(key), settings.precision) if folder else None,
        how=how,
        stored_bytes=matrices.stored_bytes,
    )
    log.info(
        "analysed %d matrices of %s in %.1f s, %d of them from the cache",
        len(spectra),
        model,
        time.perf_counter() - began,
        len(spectra) - computed,
    )
    provenance = settings.provenance | {"packing": packing}
    return SpectralReport(model=model, fingerprint=key or "", settings=provenance, matrices=spectra)


def faults(report: SpectralReport, checkpoint: Checkpoint, settings: SpectrumSettings) -> list[str]:
    """What is wrong with a checkpoint's matrices.

    Args:
        report: Of the checkpoint.
        checkpoint: Whose files may lack matrices that the report then does not know.
        settings: Which matrices were asked for.

    Returns:
        A sentence for each matrix that is missing or could not be analysed.
    """
    matrices = replace(checkpoint, dequantize=settings.dequantize).block_matrices
    return [*_missing(matrices, settings), *(s.fault for s in report.matrices if s.fault)]


def _missing(matrices: BlockMatrices, settings: SpectrumSettings) -> list[str]:
    return [fault for name, fault in matrices.faults.items() if settings.wants(name.removesuffix(".weight"))]


def sound_report(model: str, checkpoint: Checkpoint, settings: SpectrumSettings, folder: Path) -> SpectralReport:
    """`report_with_spectra` where a damaged checkpoint must not go on.

    Args:
        model: What records call it.
        checkpoint: Whose matrices are analysed.
        settings: Which of them, how, and where singular values are kept.
        folder: Of the run.

    Returns:
        The report.

    Raises:
        CheckpointError: If a matrix is missing or cannot be analysed; the report of the others is
            written by then.
    """
    checkpoint.check_whole()
    report = report_with_spectra(model, checkpoint, settings, folder)
    if found := faults(report, checkpoint, settings):
        raise CheckpointError(listing(found))
    return report


def report_of_shapes(model: str, checkpoint: Checkpoint, settings: SpectrumSettings) -> SpectralReport:
    """What a policy needs that reads no spectrum.

    Args:
        model: What records call it.
        checkpoint: Whose matrices are listed.
        settings: Which of them.

    Returns:
        The report, without spectra and columns.

    Raises:
        CheckpointError: If a matrix is missing.
    """
    checkpoint.check_whole()
    found = replace(checkpoint, dequantize=settings.dequantize).block_matrices
    matrices = settings.choose(found.matrices)
    if missing := _missing(found, settings):
        raise CheckpointError(listing(missing))
    return SpectralReport(
        model=model,
        fingerprint="",
        settings={},
        matrices=tuple(MatrixSpectrum(matrix, None, {}) for matrix in matrices),
    )


def listing(sentences: list[str]) -> str:
    """Sentences one below the other, of many the first five.

    Args:
        sentences: At least one.

    Returns:
        The text.
    """
    more = f"\n... and {len(sentences) - 5} more" if len(sentences) > 5 else ""
    return "\n".join(sentences[:5]) + more
