"""The components of a run, and the seams between them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from spectral_ft.evaluation.benchmark import Benchmark
from spectral_ft.models.source import ModelSource
from spectral_ft.reporting.inspection import Inspection
from spectral_ft.spectral.settings import SpectrumSettings
from spectral_ft.tracking import Tracking
from spectral_ft.training.settings import TrainingSettings
from spectral_ft.types import AllocationPlan, MatrixAllocation, MatrixShape, SpectralReport

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedModel

    from spectral_ft.data.dataset import Example


class RankPolicy(Protocol):
    """Report to allocations."""

    reads_spectrum: bool

    def allocate(self, report: SpectralReport) -> tuple[MatrixAllocation, ...]:
        """Say what each matrix gets."""
        ...


class Budget(Protocol):
    """Allocations to allocations that cost no more than allowed."""

    def fit(self, allocations: tuple[MatrixAllocation, ...], report: SpectralReport) -> tuple[MatrixAllocation, ...]:
        """Rescale."""
        ...


class Grouping(Protocol):
    """Allocations to allocations of which some share an adapter."""

    def group(self, allocations: tuple[MatrixAllocation, ...], report: SpectralReport) -> tuple[MatrixAllocation, ...]:
        """Name the groups."""
        ...


class Quantization(Protocol):
    """The precision of the frozen base."""

    @property
    def label(self) -> str:
        """What records call it."""
        ...

    def load_options(self, compute_dtype: "torch.dtype") -> "BitsAndBytesConfig | None":
        """What `from_pretrained` is told."""
        ...


class Method(Protocol):
    """What a paper proposes, beyond ranks."""

    name: str

    def plan(
        self, allocations: tuple[MatrixAllocation, ...], matrices: tuple[MatrixShape, ...], *, base_parameters: int
    ) -> AllocationPlan:
        """Count what the allocations cost."""
        ...

    def adapt(self, model: "PreTrainedModel", plan: AllocationPlan) -> "torch.nn.Module":
        """Put fresh adapters on a model."""
        ...

    def save(self, model: "torch.nn.Module", folder: Path) -> None:
        """Write what was trained."""
        ...

    def reopen(self, model: "PreTrainedModel", folder: Path) -> "torch.nn.Module":
        """Put trained adapters on a model."""
        ...


class TrainingData(Protocol):
    """Prompts and completions, and how they are cut."""

    name: str
    data_dir: str | None
    max_length: int
    too_long: Literal["truncate", "drop", "error"]
    train_on_inputs: bool

    def check_source(self) -> None:
        """Fail where local files are missing."""
        ...

    def examples(self) -> "list[Example]":
        """Read or make them."""
        ...


@dataclass(frozen=True)
class Experiment:
    """What a run is made of, built from its configuration before anything loads."""

    run_id: str
    seed: int
    config: Mapping[str, Any]
    """Resolved; for the record."""
    model: ModelSource
    method: Method
    rank_policy: RankPolicy
    dataset: TrainingData
    benchmark: Benchmark
    spectrum: SpectrumSettings
    budget: Budget
    grouping: Grouping
    quantization: Quantization
    training: TrainingSettings
    tracking: Tracking
    analysis: Inspection
    figures: bool
