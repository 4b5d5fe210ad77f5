"""LoRA: a frozen base plus trained low-rank updates.

    h = W x + (lora_alpha / r) B A x      A: (r, d_in), B: (d_out, r), B = 0 at the start

Source: arXiv:2106.09685, section 4.1.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.types import AllocationPlan, MatrixAllocation, MatrixShape

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Lora:
    """LoRA through PEFT."""

    name: str
    dropout: Annotated[float, Field(ge=0, lt=1)]

    def plan(
        self, allocations: tuple[MatrixAllocation, ...], matrices: tuple[MatrixShape, ...], *, base_parameters: int
    ) -> AllocationPlan:
        """Count what the allocations cost under this method.

        Args:
            allocations: One a matrix.
            matrices: Of the model, with shapes.
            base_parameters: Of the base model, tied ones once.

        Returns:
            The plan.
        """
        from spectral_ft.adapters.lora import lora_parameters

        parameters = lora_parameters({a.name: a.rank for a in allocations}, matrices)
        return AllocationPlan(allocations, parameters, parameters, base_parameters)

    def adapt(self, model: "PreTrainedModel", plan: AllocationPlan) -> "PeftModel":
        """Put fresh adapters on a model.

        Args:
            model: Frozen base.
            plan: What each matrix gets.

        Returns:
            The adapted model.
        """
        from spectral_ft.adapters.lora import add_lora

        return add_lora(model, plan, dropout=self.dropout)

    def save(self, model: "PeftModel", folder: Path) -> None:
        """Write the adapters, in the form that stock PEFT opens.

        Args:
            model: As `adapt` made it.
            folder: Where to.
        """
        model.save_pretrained(str(folder))

    def reopen(self, model: "PreTrainedModel", folder: Path) -> "PeftModel":
        """Put trained adapters on a model.

        Args:
            model: Frozen base.
            folder: The adapters.

        Returns:
            The adapted model.
        """
        from spectral_ft.adapters.lora import open_adapter

        return open_adapter(model, folder)
