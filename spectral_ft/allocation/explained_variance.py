"""EVA's ranks: more where a few directions hold little of the variance of a matrix's inputs.

What PEFT's EVA computes on the batches of the probe is a column of the report; the policy only reads it.
"""

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.allocation.selection import Block, Given, Rank, Targets, allocate_each, candidates, ranked
from spectral_ft.types import MatrixAllocation, SpectralReport

COLUMN = "input_rank"


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class ExplainedVariance:
    """`rank` times the number of matrices, handed out one by one to the component that explains most.

    Source: EVA, arXiv:2410.07170, section 3.
    """

    rank: Rank
    rho: Annotated[float, Field(ge=1)]
    tau: Annotated[float, Field(gt=0, le=1)]
    whiten: bool
    alpha_factor: Annotated[float, Field(gt=0)]
    target_modules: Targets
    lowest_block: Block

    @property
    def reads(self) -> frozenset[str]:
        """The report columns that the ranks are."""
        return frozenset({COLUMN})

    def names(self, report: SpectralReport) -> list[str]:
        """The matrices whose inputs the probe must look at.

        Args:
            report: Of the model; shapes are enough.

        Returns:
            Module names.
        """
        spectra = candidates(report, target_modules=self.target_modules, lowest_block=self.lowest_block)
        return [spectrum.matrix.name for spectrum in spectra]

    def allocate(self, report: SpectralReport) -> tuple[MatrixAllocation, ...]:
        """Allocate.

        Args:
            report: Of the model, with the probe's columns.

        Returns:
            One allocation a matrix, in the report's order; frozen where EVA gives rank 0.
        """
        spectra = candidates(report, target_modules=self.target_modules, lowest_block=self.lowest_block)
        (members,) = ranked(spectra, column=COLUMN, scope="global").values()
        given = {name: Given(int(value), self.alpha_factor * value) for value, name in members if value}
        return allocate_each(report, given)
