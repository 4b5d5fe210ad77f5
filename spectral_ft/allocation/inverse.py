"""Control: another policy's ranks, reversed."""

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spectral_ft.allocation.control import Control, exchanged
from spectral_ft.types import MatrixAllocation, SpectralReport


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Inverse(Control):
    """Another policy's ranks, reversed within each class: the lowest gets what the highest had."""

    def allocate(self, report: SpectralReport) -> tuple[MatrixAllocation, ...]:
        """Allocate.

        Args:
            report: Of the model.

        Returns:
            One allocation a matrix, in the report's order.
        """

        def reversed_by_rank(members: list[MatrixAllocation]) -> list[MatrixAllocation]:
            order = sorted(range(len(members)), key=lambda index: (members[index].rank, members[index].name))
            found = list(members)
            for here, there in zip(order, reversed(order), strict=True):
                found[here] = members[there]
            return found

        return exchanged(self.of, report, reversed_by_rank)
