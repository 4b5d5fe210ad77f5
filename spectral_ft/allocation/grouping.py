"""Which matrices share an adapter."""

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spectral_ft.types import MatrixAllocation, SpectralReport


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Ungrouped:
    """Every matrix has its own."""

    def group(self, allocations: tuple[MatrixAllocation, ...], report: SpectralReport) -> tuple[MatrixAllocation, ...]:
        """Leave the allocations as they are.

        Args:
            allocations: Of the policy, within the budget.
            report: Of the model; not used.

        Returns:
            The same.
        """
        del report
        return allocations
