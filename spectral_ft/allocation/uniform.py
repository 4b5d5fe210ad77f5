"""The same rank everywhere: the baseline of every other policy."""

from typing import ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spectral_ft.allocation.selection import Alpha, Block, Rank, Targets, allocate, candidates
from spectral_ft.types import MatrixAllocation, SpectralReport


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Uniform:
    """One rank on every candidate; reads shapes only."""

    rank: Rank
    lora_alpha: Alpha
    target_modules: Targets
    lowest_block: Block

    reads: ClassVar[frozenset[str]] = frozenset()

    def allocate(self, report: SpectralReport) -> tuple[MatrixAllocation, ...]:
        """Allocate.

        Args:
            report: Of the model; shapes are enough.

        Returns:
            One allocation a matrix, in the report's order.

        Raises:
            PlanError: If nothing matches or the rank is too high for a matrix.
        """
        spectra = candidates(report, target_modules=self.target_modules, lowest_block=self.lowest_block)
        chosen = {spectrum.matrix.name for spectrum in spectra}
        return allocate(report, chosen, rank=self.rank, lora_alpha=self.lora_alpha, targets=self.target_modules)
