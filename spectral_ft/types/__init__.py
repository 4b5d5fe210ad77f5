"""The nouns: one frozen dataclass per arrow between the stages.

Each is validated when it is built, holds no model object and no device tensor, and has a file form
(`storage.py`). Import them from here; the modules are for reading.

    spectra     matrices, their spectra, a probe
    plans       what each matrix gets, and what that costs
    trainings   what a training left, and what it cost
    overlaps    what training and test sets have in common
    records     scores, and the record of a run
"""

from spectral_ft.types.overlaps import Match, Overlap, TaskOverlap
from spectral_ft.types.plans import AllocationPlan, Cost, MatrixAllocation, Shares
from spectral_ft.types.records import BenchmarkScore, RunResult, Stage
from spectral_ft.types.spectra import PROBE_COLUMNS, MatrixShape, MatrixSpectrum, Probe, Side, SpectralReport
from spectral_ft.types.trainings import FILL, IGNORED, HeldOutLoss, Round, TrainOutcome

__all__ = [
    "FILL",
    "IGNORED",
    "PROBE_COLUMNS",
    "AllocationPlan",
    "BenchmarkScore",
    "Cost",
    "HeldOutLoss",
    "Match",
    "MatrixAllocation",
    "MatrixShape",
    "MatrixSpectrum",
    "Overlap",
    "Probe",
    "Round",
    "RunResult",
    "Shares",
    "Side",
    "SpectralReport",
    "Stage",
    "TaskOverlap",
    "TrainOutcome",
]
