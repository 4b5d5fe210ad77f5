"""The components of a run, and the seams between them."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from spectral_ft.allocation.budget import Budget
from spectral_ft.allocation.learning_rates import AsAllocated
from spectral_ft.evaluation.benchmark import Benchmark
from spectral_ft.methods.seam import Adapted, BaseModel, Takes
from spectral_ft.models.source import ModelSource
from spectral_ft.probe.settings import ProbeSettings
from spectral_ft.reporting.inspection import Inspection
from spectral_ft.reporting.planning import Planning
from spectral_ft.spectral.drift_settings import DriftSettings, NoDrift
from spectral_ft.spectral.settings import SpectrumSettings
from spectral_ft.tracking import Tracking
from spectral_ft.training.settings import TrainingSettings
from spectral_ft.types import AllocationPlan, Cost, MatrixAllocation, MatrixShape, Probe, SpectralReport

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

    from spectral_ft.data.dataset import Example


class RankPolicy(Protocol):
    """Report to allocations."""

    @property
    def reads(self) -> frozenset[str]:
        """Columns of the report; the stages that make them run."""
        ...

    def allocate(self, report: SpectralReport) -> tuple[MatrixAllocation, ...]:
        """Say what each matrix gets."""
        ...


class Grouping(Protocol):
    """Allocations to allocations of which some share factors."""

    @property
    def reads(self) -> frozenset[str]:
        """Columns of the report."""
        ...

    @property
    def reads_sketches(self) -> bool:
        """Whether the probe must sketch gradients."""
        ...

    def group(
        self, allocations: tuple[MatrixAllocation, ...], report: SpectralReport, probe: Probe | None
    ) -> tuple[MatrixAllocation, ...]:
        """Name the groups."""
        ...


class LearningRates(Protocol):
    """Allocations to allocations of which some learn faster."""

    @property
    def reads(self) -> frozenset[str]:
        """Columns of the report."""
        ...

    def scale(self, allocations: tuple[MatrixAllocation, ...], report: SpectralReport) -> tuple[MatrixAllocation, ...]:
        """Multiply their learning rates."""
        ...


class GeneralTexts(Protocol):
    """Text that has nothing to do with the training task."""

    def check_source(self) -> None:
        """Fail where a local file is missing."""
        ...

    def rows(self, tokenizer: "PreTrainedTokenizerBase") -> list[dict[str, Any]]:
        """Read and tokenise it; nothing where forgetting is not measured."""
        ...


class Quantization(Protocol):
    """The precision of the frozen base."""

    @property
    def label(self) -> str:
        """What records call it."""
        ...

    @property
    def bits(self) -> float | None:
        """What it takes a parameter; None: as many as the dtype has."""
        ...

    @property
    def on_cpu(self) -> Literal["dequantize_once", "packed"] | None:
        """Whether a CPU dequantizes once or at every product; None: as memory allows."""
        ...

    def load_options(self, compute_dtype: "torch.dtype") -> "BitsAndBytesConfig | None":
        """What `from_pretrained` is told."""
        ...


class Method(Protocol):
    """What a paper proposes, beyond ranks."""

    @property
    def name(self) -> str:
        """What records call it."""
        ...

    @property
    def takes(self) -> Takes:
        """What it can be composed with."""
        ...

    @property
    def rounds(self) -> int:
        """How often the policy is asked while it trains; 1: measured at the end; 0: never."""
        ...

    @property
    def activation_checkpointing(self) -> bool:
        """Whether activations are recomputed where the training settings leave it open."""
        ...

    def plan(self, allocations: tuple[MatrixAllocation, ...], base: BaseModel) -> AllocationPlan:
        """Count what the allocations cost."""
        ...

    def adapt(
        self, model: "PreTrainedModel", plan: AllocationPlan, *, base: BaseModel, steps: int, probe: Probe | None
    ) -> Adapted:
        """Put what is trained on a model."""
        ...


@runtime_checkable
class Costed(Protocol):
    """A method whose cost can be said matrix by matrix, so that a budget can be kept."""

    def cost(self, matrix: MatrixShape) -> Cost:
        """What adapting one matrix costs."""
        ...


@runtime_checkable
class Scheduled(Protocol):
    """A method that does something at certain shares of the steps."""

    def check_steps(self, steps: int) -> None:
        """Fail where a training is too short for it."""
        ...


class TrainingData(Protocol):
    """Prompts and completions, and how they are cut."""

    name: str
    data_dir: str | None
    prompt: str
    """Name of the template in `data/prompts.py` that its prompts are written in."""
    max_length: int
    too_long: Literal["truncate", "drop", "error"]
    train_on_inputs: bool
    drop_overlap: bool

    def check_source(self) -> None:
        """Fail where local files are missing."""
        ...

    def instructions(self) -> list[str]:
        """What each row asks, trained on or held out."""
        ...

    def examples(self, left_out: Collection[int] = ()) -> "list[Example]":
        """Read or make them, but for some rows."""
        ...

    def validation_examples(self, left_out: Collection[int] = ()) -> "list[Example]":
        """Those that are held out, but for some rows."""
        ...


@dataclass(frozen=True)
class PlanParts:
    """What makes a plan: the components that a budget can match another's of."""

    method: Method
    rank_policy: RankPolicy
    grouping: Grouping
    budget: Budget
    lr_by: LearningRates = field(default_factory=AsAllocated)


def all_parts(*parts: PlanParts) -> list[PlanParts]:
    """What makes plans, and what makes those that their budgets match.

    Args:
        *parts: Of the plans.

    Returns:
        All of them.
    """
    return [each for own in parts for each in (own, *([own.budget.of] if own.budget.kind == "match" else []))]


def columns_read(parts: Iterable[PlanParts]) -> frozenset[str]:
    """All report columns that plans need.

    Args:
        parts: Of the plans.

    Returns:
        Their names, the probe's included.
    """
    return frozenset().union(*(each.rank_policy.reads | each.grouping.reads | each.lr_by.reads for each in parts))


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
    probe: ProbeSettings
    budget: Budget
    grouping: Grouping
    lr_by: LearningRates
    quantization: Quantization
    training: TrainingSettings
    general_text: GeneralTexts
    drift: DriftSettings | NoDrift
    tracking: Tracking
    analysis: Inspection
    planning: Planning
    figures: bool

    @property
    def parts(self) -> PlanParts:
        """What makes its plan."""
        return PlanParts(self.method, self.rank_policy, self.grouping, self.budget, self.lr_by)
