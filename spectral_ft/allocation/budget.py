"""How many parameters a plan may train: no limit, a number, a percentage, or as many as another plan."""

import math
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.errors import ConfigError

NEEDS = {"none": None, "params": "value", "percent": "value", "match": "of"}
"""The option that each kind reads."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True))
class Budget:
    """The number of trainable parameters that a policy's ranks are scaled to."""

    kind: Literal["none", "params", "percent", "match"]
    value: Annotated[float, Field(gt=0)] | None
    of: Any
    """What makes the plan that is matched: method, rank policy, grouping and budget."""

    def __post_init__(self) -> None:
        """Check that what the kind needs is there, and nothing else.

        Raises:
            ConfigError: If it is not, if a percentage is 100 or more, a count no whole number, or the plan that is
                matched is matched itself.
        """
        given = {"value": self.value, "of": self.of}
        needed = NEEDS[self.kind]
        for option, value in given.items():
            if option == needed and value is None:
                raise ConfigError(f"budget.kind={self.kind} needs budget.{option}.")
            if option != needed and value is not None:
                raise ConfigError(
                    f"budget.{option} means nothing with budget.kind={self.kind}: leave it out, or set budget.kind to "
                    f"{' or '.join(kind for kind, read in NEEDS.items() if read == option)}."
                )
        if self.kind == "percent" and self.value is not None and self.value >= 100:
            raise ConfigError(
                f"budget.value={self.value:g} is no percentage of an adapted model: it must be below 100."
            )
        if self.kind == "params" and self.value is not None and self.value != int(self.value):
            raise ConfigError(f"budget.value={self.value:g} is no number of parameters: give a whole number.")
        if self.kind == "match":
            self._check_other()

    def _check_other(self) -> None:
        other = getattr(self.of, "budget", None)
        if other is None:
            raise ConfigError(
                f"budget.of={self.of!r} names no method: give METHOD or METHOD/POLICY, as in budget.of=lora/uniform."
            )
        if other.kind == "match":
            raise ConfigError(
                "budget.of refers to a plan whose own budget is a match, and so in the end to itself: name a method "
                "with another budget."
            )

    def target(self, base_parameters: int) -> int | None:
        """How many parameters may be trained, as far as the options say.

        A percentage `p` counts the trained among all: `t / (base + t) = p`, so `t = p base / (1 - p)`.

        Args:
            base_parameters: Of the base, tied ones once.

        Returns:
            The number, rounded down; None without a limit, and where another plan must be counted.
        """
        if self.value is None:
            return None
        if self.kind == "params":
            return int(self.value)
        share = self.value / 100
        return math.floor(share * base_parameters / (1 - share))
