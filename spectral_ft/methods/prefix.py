"""Prefix tuning: trained keys and values that stand before the text in every block.

Source: arXiv:2101.00190, through PEFT, without its reparametrisation.
"""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.methods.plain import Plain
from spectral_ft.methods.seam import BaseModel, Takes

if TYPE_CHECKING:
    from peft import PeftConfig


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Prefix(Plain):
    """Prefix tuning through PEFT."""

    virtual_tokens: Annotated[int, Field(ge=1)]

    takes: ClassVar[Takes] = Takes("none", checkpointing=False)

    def peft_config(self, base: BaseModel) -> "PeftConfig":
        """The configuration.

        Args:
            base: The model.

        Returns:
            PEFT's, which trains a classifier's head by itself.
        """
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(task_type=base.task_type, num_virtual_tokens=self.virtual_tokens)
