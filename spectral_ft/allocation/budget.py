"""How many parameters a plan may train."""

from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spectral_ft.types import MatrixAllocation, SpectralReport


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Unlimited:
    """No limit: the plan stays what the policy said."""

    kind: Literal["none"]

    def fit(self, allocations: tuple[MatrixAllocation, ...], report: SpectralReport) -> tuple[MatrixAllocation, ...]:
        """Leave the allocations as they are.

        Args:
            allocations: Of the policy.
            report: Of the model; not used.

        Returns:
            The same.
        """
        del report
        return allocations
