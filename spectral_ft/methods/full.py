"""Full fine-tuning: everything is trained."""

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spectral_ft.methods.seam import Adapted, BaseModel, Takes
from spectral_ft.types import AllocationPlan, MatrixAllocation, Probe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Full:
    """Every parameter, norms and embeddings included."""

    name: str

    takes: ClassVar[Takes] = Takes("none", quantized=False)
    rounds: ClassVar[int] = 0
    activation_checkpointing: ClassVar[bool] = False

    def plan(self, allocations: tuple[MatrixAllocation, ...], base: BaseModel) -> AllocationPlan:
        """Count everything.

        Args:
            allocations: Of no policy: all frozen, as far as adapters go.
            base: The model.

        Returns:
            The plan; it adds no adapters.
        """
        return AllocationPlan(allocations, base.parameters, 0, base.parameters)

    def adapt(
        self, model: "PreTrainedModel", plan: AllocationPlan, *, base: BaseModel, steps: int, probe: Probe | None
    ) -> Adapted:
        """Let everything be trained.

        Args:
            model: Base; changed in place.
            plan: What was counted; not used.
            base: The model, as it was counted; not used.
            steps: Of the training; not used.
            probe: Of the model; not used.

        Returns:
            The same model.
        """
        del plan, base, steps, probe
        from spectral_ft.adapters.tensors import save_tensors, train_tensors

        trained = train_tensors(model, None)
        return Adapted(trained, save=partial(save_tensors, trained))
