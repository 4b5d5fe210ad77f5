"""The dumb rival: the rank is linear in the block's position, whatever the spectra say."""

from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.allocation.selection import Block, Given, Rank, Targets, allocate_each, candidates
from spectral_ft.types import MatrixAllocation, SpectralReport


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Depth:
    """From `first_rank` in the lowest candidate block to `last_rank` in the highest; reads shapes only."""

    first_rank: Rank
    last_rank: Rank
    alpha_factor: Annotated[float, Field(gt=0)]
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
            PlanError: If nothing matches or a rank is too high for a matrix.
        """
        spectra = candidates(report, target_modules=self.target_modules, lowest_block=self.lowest_block)
        blocks = [spectrum.matrix.block for spectrum in spectra]
        low, span = min(blocks), max(max(blocks) - min(blocks), 1)
        given: dict[str, Given] = {}
        for spectrum in spectra:
            position = (spectrum.matrix.block - low) / span
            rank = round(self.first_rank + (self.last_rank - self.first_rank) * position)
            given[spectrum.matrix.name] = Given(rank, self.alpha_factor * rank)
        return allocate_each(report, given, targets=self.target_modules)
