"""What IA3, norm tuning and prefix tuning share: PEFT needs nothing but a configuration to put them on a model."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spectral_ft.methods.seam import Adapted, BaseModel, Takes
from spectral_ft.types import AllocationPlan, MatrixAllocation, Probe

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Plain(ABC):
    """A method that is a PEFT configuration."""

    name: str

    takes: ClassVar[Takes] = Takes("none")
    rounds: ClassVar[int] = 0
    activation_checkpointing: ClassVar[bool] = False

    @abstractmethod
    def peft_config(self, base: BaseModel) -> "PeftConfig":
        """The configuration.

        Args:
            base: The model.

        Returns:
            PEFT's class of this method, filled in.
        """

    def plan(self, allocations: tuple[MatrixAllocation, ...], base: BaseModel) -> AllocationPlan:
        """Count what is trained, on the model without weights.

        Args:
            allocations: Of no policy: all frozen.
            base: The model.

        Returns:
            The plan.
        """
        from spectral_ft.adapters.plain import count_trained

        trained = count_trained(base.blueprint(), self.peft_config(base))
        return AllocationPlan(allocations, trained, trained, base.parameters)

    def adapt(
        self, model: "PreTrainedModel", plan: AllocationPlan, *, base: BaseModel, steps: int, probe: Probe | None
    ) -> Adapted:
        """Put what is trained on a model.

        Args:
            model: Frozen base.
            plan: What was counted.
            base: The model, as it was counted.
            steps: Of the training; not used.
            probe: Of the model; not used.

        Returns:
            The adapted model.
        """
        del steps, probe
        from spectral_ft.adapters.plain import add_plain

        adapted = add_plain(model, self.peft_config(base), expected=plan.trainable_parameters)
        return Adapted(adapted, save=lambda folder: adapted.save_pretrained(str(folder)))
