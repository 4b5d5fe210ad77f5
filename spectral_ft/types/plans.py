"""What each matrix gets, and what that costs."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from spectral_ft.types.strictness import STRICT

Shares = Literal["AB", "A", "B"]
"""The low-rank factors that the matrices of a group have in common: A (rank, d_in), B (d_out, rank)."""


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
