"""EVA: LoRA whose `A` starts at the principal directions of each matrix's inputs, with ranks by their variance.

Source: arXiv:2410.07170, through PEFT's own implementation on the batches of the probe.
"""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.errors import PlanError
from spectral_ft.methods.lora import counted
from spectral_ft.methods.seam import Adapted, BaseModel, Takes
from spectral_ft.types import AllocationPlan, Cost, MatrixAllocation, MatrixShape, Probe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Eva:
    """LoRA with EVA's start."""

    name: str
    dropout: Annotated[float, Field(ge=0, lt=1)]

    takes: ClassVar[Takes] = Takes("each")
    rounds: ClassVar[int] = 0
    activation_checkpointing: ClassVar[bool] = False

    def cost(self, matrix: MatrixShape) -> Cost:
        """What a rank on one matrix costs.

        Args:
            matrix: With its shape.

        Returns:
            As LoRA: `r (d_in + d_out)`.
        """
        d_out, d_in = matrix.sides
        return Cost(a=d_in, b=d_out)

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
        """Put adapters on a model that look where its inputs vary.

        Args:
            model: Frozen base.
            plan: What each matrix gets.
            base: The model, as it was counted.
            steps: Of the training; not used.
            probe: With the directions.

        Returns:
            The adapted model.

        Raises:
            PlanError: If no probe found directions.
        """
        del steps
        from spectral_ft.adapters.lora import add_lora, set_directions

        if probe is None or not probe.components:
            raise PlanError("method=eva starts from the directions of a probe, and there is none.")
        adapted = add_lora(model, plan, task_type=base.task_type, heads=base.heads, lora_dropout=self.dropout)
        set_directions(adapted, probe.components)
        return Adapted(adapted, save=lambda folder: adapted.save_pretrained(str(folder)))
