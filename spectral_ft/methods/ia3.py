"""IA3: a trained factor for each key, value and inner activation.

Source: arXiv:2205.05638, through PEFT.
"""

from typing import TYPE_CHECKING

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spectral_ft.methods.plain import Plain
from spectral_ft.methods.seam import BaseModel

if TYPE_CHECKING:
    from peft import PeftConfig


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Ia3(Plain):
    """IA3 through PEFT."""

    target_modules: list[str] | None
    feedforward_modules: list[str] | None

    def peft_config(self, base: BaseModel) -> "PeftConfig":
        """The configuration.

        Args:
            base: The model.

        Returns:
            PEFT's, with a classifier's head trained beside.
        """
        from peft import IA3Config

        return IA3Config(
            task_type=base.task_type,
            target_modules=self.target_modules,
            feedforward_modules=self.feedforward_modules,
            modules_to_save=list(base.heads) or None,
        )
