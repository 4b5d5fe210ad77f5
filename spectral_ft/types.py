"""The nouns: one frozen dataclass per arrow between the stages.

Each is validated when it is built, holds no model object and no device tensor, and has a file form
(`storage.py`).
"""

from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.errors import CheckpointError

STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

Side = Literal["reads", "writes", "unknown"]
"""Whether a matrix reads the residual stream, writes it, or its architecture is not in the table."""

IGNORED = -100
"""Label that the loss leaves out."""

Stage = Literal["base", "tuned"]
"""Scores before training, or after it."""


Shares = Literal["AB", "A", "B"]
"""The low-rank factors that the matrices of a group have in common: A (rank, d_in), B (d_out, rank)."""


@dataclass(frozen=True, config=STRICT)
class MatrixShape:
    """One linear weight of a block: what is known of it without its entries."""

    name: str
    """Module path, without `.weight`."""
    type: str
    """What all blocks have one of: `q_proj`, `attn.c_proj`."""
    side: Side
    block: Annotated[int, Field(ge=0)]
    shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None
    """(d_out, d_in), whatever the orientation in the file; None for an imported scan, which does not tell."""

    @property
    def sides(self) -> tuple[int, int]:
        """The shape, where it must be known.

        Raises:
            CheckpointError: If it is not.
        """
        if self.shape is None:
            raise CheckpointError(
                f"the shape of {self.name} is not known: the report was imported from a scan, which has no shapes. "
                "Analyse the checkpoint itself."
            )
        return self.shape

    @property
    def smaller_side(self) -> int:
        """`m`, the largest possible rank."""
        return min(self.sides)


@dataclass(frozen=True, config=STRICT)
class MatrixSpectrum:
    """A matrix, its singular values and what was computed from them."""

    matrix: MatrixShape
    singular_values: np.ndarray | None
    """Descending float64, shape (min(d_out, d_in),); None where nothing asked for them."""
    columns: dict[str, float | None]
    """Metric columns; None where a metric means nothing for this matrix."""
    reasons: dict[str, str] = Field(default_factory=dict)
    """For each None in `columns`, why."""
    fault: str | None = None
    """Why the matrix could not be analysed: a sentence with its name."""
    precision: str | None = None
    """In which the singular values were computed, `float64` or `float32`; None where they were not."""

    def __post_init__(self) -> None:
        """Check the singular values against the shape.

        Raises:
            ValueError: If their number, order, sign or finiteness is wrong.
        """
        s = self.singular_values
        if s is None:
            return
        if s.shape != (self.matrix.smaller_side,):
            raise ValueError(f"{self.matrix.name}: {s.shape} singular values for shape {self.matrix.shape}")
        if not np.isfinite(s).all() or (s < 0).any() or (np.diff(s) > 0).any():
            raise ValueError(f"{self.matrix.name}: singular values must be finite, non-negative and descending")


@dataclass(frozen=True, config=STRICT)
class SpectralReport:
    """What is known of every matrix of one checkpoint."""

    model: str
    fingerprint: str
    """Of the weight files; empty for a report made from shapes alone."""
    settings: dict[str, Any]
    matrices: tuple[MatrixSpectrum, ...]

    def frame(self) -> pd.DataFrame:
        """The report as a table.

        Returns:
            One row a matrix: name, type, side, block, rows, cols, then the metric columns (null
            where a metric means nothing), `precision`, and `reasons`, the explanation of the nulls.
            A matrix that could not be analysed has its fault there.
        """
        return pd.DataFrame([
            {
                "name": spectrum.matrix.name,
                "type": spectrum.matrix.type,
                "side": spectrum.matrix.side,
                "block": spectrum.matrix.block,
                "rows": spectrum.matrix.shape and spectrum.matrix.shape[0],
                "cols": spectrum.matrix.shape and spectrum.matrix.shape[1],
                **spectrum.columns,
                "precision": spectrum.precision,
                "reasons": spectrum.fault or "; ".join(f"{column}: {why}" for column, why in spectrum.reasons.items()),
            }
            for spectrum in self.matrices
        ])


@dataclass(frozen=True, config=STRICT)
class Probe:
    """What a few calibration batches showed of every matrix."""

    ids: tuple[int, ...]
    """Indices of the training examples that were looked at."""
    columns: dict[str, dict[str, float]]
    """Module name to probe columns (`PROBE_COLUMNS`); a subset of them where not all were asked for."""
    sketches: dict[str, np.ndarray] = Field(default_factory=dict)
    """Module name to the gradient's sketch `P_out^T G P_in`, float32 (k, k), summed over the batches."""
    half_sketches: dict[str, np.ndarray] = Field(default_factory=dict)
    """The same over every other batch, the leading (k / 2, k / 2) of it: for the agreement of two halves."""
    components: dict[str, np.ndarray] = Field(default_factory=dict)
    """Module name to the principal directions of its inputs, float32 (rank, d_in), the first first."""


PROBE_COLUMNS = ("gradient", "input_rank")
"""`gradient`: mean over batches of |G|_F^2 / entries of G. `input_rank`: EVA's rank."""


@dataclass(frozen=True, config=STRICT)
class Cost:
    """What adapting one matrix costs, in parameters."""

    a: Annotated[int, Field(ge=0)]
    """Of one row of A: d_in."""
    b: Annotated[int, Field(ge=0)]
    """Of one column of B, and whatever else comes with one rank: d_out."""
    fixed: Annotated[int, Field(ge=0)] = 0
    """That come with any rank at all (DoRA's magnitudes)."""


@dataclass(frozen=True, config=STRICT)
class MatrixAllocation:
    """What one matrix gets."""

    name: str
    rank: Annotated[int, Field(ge=0)]
    """0: frozen."""
    lora_alpha: Annotated[float, Field(ge=0)]
    """The update is scaled by lora_alpha / rank."""
    lr_multiplier: Annotated[float, Field(ge=0)] = 1.0
    """Of the learning rate; 0: the adapter stays as it is, frozen by a later round."""
    group: str | None = None
    """Matrices of one group share `shares`."""
    shares: Shares | None = None
    """What is shared: the pair of factors, or the one on the side of the residual stream; None without a group."""


@dataclass(frozen=True, config=STRICT)
class AllocationPlan:
    """What every matrix gets, and what that costs."""

    allocations: tuple[MatrixAllocation, ...]
    trainable_parameters: int
    adapter_parameters: int
    """Parameters that were added to the base, trained or not."""
    base_parameters: int
    """Parameters of the base model, tied ones once."""
    trainable_percent: float = 0.0
    """100 trainable / all parameters of the adapted model: the published tables' convention. Computed."""

    def __post_init__(self) -> None:
        """Compute the percentage, whatever a file says."""
        percent = 100 * self.trainable_parameters / (self.base_parameters + self.adapter_parameters)
        object.__setattr__(self, "trainable_percent", percent)

    @property
    def adapted(self) -> tuple[MatrixAllocation, ...]:
        """The allocations that are not frozen."""
        return tuple(allocation for allocation in self.allocations if allocation.rank)


@dataclass(frozen=True, config=STRICT)
class Round:
    """What the policy said when it was asked again on the weights as trained so far."""

    step: int
    applied: bool
    """False at the end of the training, where it is only measured."""
    changed: tuple[str, ...]
    """Matrices that were given another rank, learning rate or scaling."""
    plan: AllocationPlan
    columns: dict[str, dict[str, float | None]]
    """Column that the policy reads, to module name, to its value on `W + scaling B A`; adapted matrices only."""


@dataclass(frozen=True, config=STRICT)
class HeldOutLoss:
    """A loss on text that is not trained on, before the training and after it."""

    before: float
    after: float
    tokens: int
    """That the loss is a mean over; texts, for a classifier."""


@dataclass(frozen=True, config=STRICT)
class TrainOutcome:
    """What training left and what it cost."""

    adapter: str | None
    """Folder, relative to the run's."""
    first_loss: float
    final_loss: float
    """Mean over the last tenth of the logged losses."""
    steps: int
    seconds: float
    """In the training loop, over all resumptions."""
    tokens: int
    """Without padding."""
    tokens_per_second: float
    samples_per_second: float
    peak_memory_bytes: int
    """Of the process, base model included; of all processes together."""
    peak_device_bytes: int | None
    """Of the first process's CUDA device; None without one."""
    trainable_parameters: int
    examples: int
    truncated_examples: int
    """Examples cut at the maximum length."""
    dropped_examples: int
    best_step: int | None = None
    """Whose weights were kept; None where the last ones were."""
    validation_loss: HeldOutLoss | None = None
    """A learnt token of the held-out examples of the training task; None without any."""
    general_loss: HeldOutLoss | None = None
    """A token of general text: how much is forgotten; None without such a text."""
    rounds: tuple[Round, ...] = ()
    """When the policy was asked again."""


@dataclass(frozen=True, config=STRICT)
class Match:
    """A text that stands in the training set and, the same or nearly the same, in a test set."""

    kind: Literal["exact", "near"]
    similarity: float
    """Jaccard similarity of the words that count; 1 where exact."""
    training: tuple[int, ...]
    """Training rows that hold it, from 0."""
    test: tuple[int, ...]
    """Test items that ask it, from 0."""


@dataclass(frozen=True, config=STRICT)
class TaskOverlap:
    """What training set and test set of one task have in common."""

    task: str
    items: int | None
    """Test items that were compared; None where the harness fetches its own, which were not."""
    matches: tuple[Match, ...]
    counts: dict[str, int] = Field(default_factory=dict)
    """`exact_items`, `near_items`: test items found, near ones beyond the exact; `exact_rows`, `near_rows`: training
    rows concerned, likewise. Computed."""

    def __post_init__(self) -> None:
        """Count, whatever a file says."""
        counts: dict[str, int] = {}
        for name, side in (("items", "test"), ("rows", "training")):
            exact, near = (
                {place for match in self.matches if match.kind == kind for place in getattr(match, side)}
                for kind in ("exact", "near")
            )
            counts |= {f"exact_{name}": len(exact), f"near_{name}": len(near - exact)}
        object.__setattr__(self, "counts", counts)


@dataclass(frozen=True, config=STRICT)
class Overlap:
    """What training set and test sets of a run have in common."""

    dataset: str
    rows: int
    """Training rows that were compared, held-out ones included."""
    threshold: float
    """Least similarity of near duplicates."""
    dropped: bool
    """Whether the rows concerned were left out of training and validation."""
    tasks: tuple[TaskOverlap, ...]

    @property
    def concerned(self) -> frozenset[int]:
        """Training rows that are test items, of any task."""
        return frozenset(row for task in self.tasks for match in task.matches for row in match.training)

    @property
    def summary(self) -> dict[str, Any]:
        """In counts, for the record."""
        return {
            "dataset": self.dataset,
            "rows": self.rows,
            "concerned_rows": len(self.concerned),
            "dropped_rows": len(self.left_out),
            "threshold": self.threshold,
            "tasks": {
                task.task: None if task.items is None else {"items": task.items, **task.counts} for task in self.tasks
            },
        }

    @property
    def left_out(self) -> frozenset[int]:
        """Training rows that are neither trained on nor held out."""
        return self.concerned if self.dropped else frozenset()


@dataclass(frozen=True, config=STRICT)
class BenchmarkScore:
    """One number on one task."""

    task: str
    metric: str
    value: float
    stderr: float | None
    n: int
    """Items scored."""
    fewshot: int
    extractor: str
    """Rule by which the answer was read from the response."""
    protocol: str
    stage: Stage
    harness_version: str


@dataclass(frozen=True, config=STRICT)
class RunResult:
    """The record of a finished run."""

    run_id: str
    format: int
    status: Literal["finished"]
    config: dict[str, Any]
    plan: dict[str, Any] | None
    """The counts of the plan; None where nothing was trained."""
    train: dict[str, Any] | None
    scores: tuple[BenchmarkScore, ...]
    versions: dict[str, str]
    git_commit: str | None
    seed: int
    seconds: float
    """Wall time of the call that finished it."""
    machine: dict[str, Any]
    overlap: dict[str, Any] | None = None
    """What training and test sets have in common, in counts; None where nothing was trained."""
