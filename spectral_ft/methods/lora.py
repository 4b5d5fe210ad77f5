"""LoRA: a frozen base plus trained low-rank updates; and what is a switch of it.

    h = W x + scaling B A x      A: (r, d_in), B: (d_out, r), B = 0 at the start

`scaling` is lora_alpha / r, or lora_alpha / sqrt(r) (rsLoRA, arXiv:2312.03732). DoRA (arXiv:2402.09353) trains the
norm of each row of `W + scaling B A` beside.

Source: arXiv:2106.09685, section 4.1.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.allocation.fitting import parameters, units
from spectral_ft.errors import ConfigError
from spectral_ft.methods.seam import Adapted, BaseModel, Takes
from spectral_ft.types import AllocationPlan, Cost, MatrixAllocation, MatrixShape, Probe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def counted(
    allocations: tuple[MatrixAllocation, ...], base: BaseModel, *, cost: Callable[[MatrixShape], Cost]
) -> AllocationPlan:
    """What low-rank adapters of these ranks cost.

    Args:
        allocations: One a matrix.
        base: The model.
        cost: Of a rank on one matrix.

    Returns:
        The plan; what stays as it is (learning-rate multiplier 0) is added, but not trained.
    """
    costs = {matrix.name: cost(matrix) for matrix in base.matrices}
    moving = [allocation for allocation in allocations if allocation.lr_multiplier]
    trained = parameters(units(moving, base.matrices, costs)) + base.head_parameters
    added = parameters(units(allocations, base.matrices, costs)) + base.head_parameters
    return AllocationPlan(allocations, trained, added, base.parameters)


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Lora:
    """LoRA through PEFT, with its switches."""

    name: str
    dropout: Annotated[float, Field(ge=0, lt=1)]
    use_rslora: bool
    use_dora: bool
    rounds: Annotated[int, Field(ge=0)]
    activation_checkpointing: bool

    @property
    def takes(self) -> Takes:
        """What it can be composed with: anything, but DoRA's magnitudes belong to one matrix and one rank."""
        return Takes("each", groups=not self.use_dora, rounds=not self.use_dora)

    def __post_init__(self) -> None:
        """Check the switches against each other.

        Raises:
            ConfigError: If DoRA shall change ranks in mid-training.
        """
        if self.use_dora and self.rounds > 1:
            raise ConfigError(
                f"method.rounds={self.rounds} does not go with method.use_dora=true: magnitudes belong to the update "
                "as it is, and resizing it would change the function. Set method.rounds=1."
            )

    def cost(self, matrix: MatrixShape) -> Cost:
        """What a rank on one matrix costs.

        Args:
            matrix: With its shape.

        Returns:
            `r (d_in + d_out)`, and DoRA's d_out magnitudes.
        """
        d_out, d_in = matrix.sides
        return Cost(a=d_in, b=d_out, fixed=d_out if self.use_dora else 0)

    def plan(self, allocations: tuple[MatrixAllocation, ...], base: BaseModel) -> AllocationPlan:
        """Count what the allocations cost under this method.

        Args:
            allocations: One a matrix.
            base: The model.

        Returns:
            The plan.
        """
        return counted(allocations, base, cost=self.cost)

    def adapt(
        self, model: "PreTrainedModel", plan: AllocationPlan, *, base: BaseModel, steps: int, probe: Probe | None
    ) -> Adapted:
        """Put fresh adapters on a model.

        Args:
            model: Frozen base.
            plan: What each matrix gets.
            base: The model, as it was counted.
            steps: Of the training; not used.
            probe: Of the model; not used.

        Returns:
            The adapted model.
        """
        del steps, probe
        from spectral_ft.adapters.lora import add_lora

        adapted = add_lora(
            model,
            plan,
            task_type=base.task_type,
            heads=base.heads,
            lora_dropout=self.dropout,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
        )
        return Adapted(adapted, save=lambda folder: adapted.save_pretrained(str(folder)))
