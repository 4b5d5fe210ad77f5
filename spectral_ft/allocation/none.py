"""No policy: for methods that adapt no single matrices."""

from typing import ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spectral_ft.types import MatrixAllocation, SpectralReport


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class NoPolicy:
    """Gives no matrix any rank."""

    reads: ClassVar[frozenset[str]] = frozenset()

    def allocate(self, report: SpectralReport) -> tuple[MatrixAllocation, ...]:
        """Allocate nothing.

        Args:
            report: Of the model; shapes are enough.

        Returns:
            One frozen allocation a matrix, in the report's order.
        """
        return tuple(MatrixAllocation(spectrum.matrix.name, 0, 0.0) for spectrum in report.matrices)
