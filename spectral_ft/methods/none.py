"""No method: the base is scored as it is."""

from typing import TYPE_CHECKING, ClassVar, NoReturn

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spectral_ft.errors import PlanError
from spectral_ft.methods.seam import BaseModel, Takes
from spectral_ft.types import AllocationPlan, MatrixAllocation, Probe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Nothing:
    """Trains nothing."""

    name: str

    takes: ClassVar[Takes] = Takes("none")
    rounds: ClassVar[int] = 0
    activation_checkpointing: ClassVar[bool] = False

    def plan(self, allocations: tuple[MatrixAllocation, ...], base: BaseModel) -> AllocationPlan:
        """Count nothing.

        Args:
            allocations: Of no policy: all frozen.
            base: The model.

        Returns:
            The plan.
        """
        return AllocationPlan(allocations, 0, 0, base.parameters)

    def adapt(
        self, model: "PreTrainedModel", plan: AllocationPlan, *, base: BaseModel, steps: int, probe: Probe | None
    ) -> NoReturn:
        """There is nothing to train.

        Args:
            model: Base; not used.
            plan: Not used.
            base: Not used.
            steps: Not used.
            probe: Not used.

        Raises:
            PlanError: Always.
        """
        del model, plan, base, steps, probe
        raise PlanError("method=none trains nothing: it only scores the base.")
