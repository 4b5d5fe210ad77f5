"""Checkpoint to `spectrum.parquet`."""

import logging
import time
from pathlib import Path

from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.spectral.analysis import analyse
from spectral_ft.spectral.cache import PRECISION, SpectrumCache
from spectral_ft.spectral.settings import SpectrumSettings
from spectral_ft.storage import read_report, write_report
from spectral_ft.types import MatrixSpectrum, SpectralReport

log = logging.getLogger(__name__)


def report_with_spectra(model: str, checkpoint: Checkpoint, settings: SpectrumSettings, folder: Path) -> SpectralReport:
    """Singular values and metrics of every matrix.

    Args:
        model: What records call it.
        checkpoint: Whose matrices are analysed.
        settings: Which of them, and where singular values are kept.
        folder: Of the run.

    Returns:
        The report.
    """
    path = folder / "spectrum.parquet"
    if path.exists():
        return read_report(path)
    began = time.perf_counter()
    cache = SpectrumCache(settings.cache_folder, checkpoint.fingerprint) if settings.cache_folder else None
    matrices = settings.choose(checkpoint.matrices)
    spectra, computed = analyse(matrices, checkpoint.read, cache=cache, workers=settings.worker_count)
    report = SpectralReport(
        model=model,
        fingerprint=checkpoint.fingerprint,
        settings={"include": settings.include, "exclude": settings.exclude, "precision": PRECISION},
        matrices=spectra,
    )
    write_report(path, report)
    log.info(
        "analysed %d matrices of %s in %.1f s, %d of them from the cache",
        len(spectra),
        model,
        time.perf_counter() - began,
        len(spectra) - computed,
    )
    return report


def report_of_shapes(model: str, checkpoint: Checkpoint, settings: SpectrumSettings) -> SpectralReport:
    """What a policy needs that reads no spectrum.

    Args:
        model: What records call it.
        checkpoint: Whose matrices are listed.
        settings: Which of them.

    Returns:
        The report, without spectra and columns.
    """
    matrices = settings.choose(checkpoint.matrices)
    return SpectralReport(
        model=model,
        fingerprint="",
        settings={},
        matrices=tuple(MatrixSpectrum(matrix, None, {}) for matrix in matrices),
    )
