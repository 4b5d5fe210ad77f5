"""SpectraQLoRA's rule: adapt the matrices of highest signal-to-noise ratio, freeze the rest."""

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spectral_ft.allocation.selection import Alpha, Block, Fraction, Rank, Scope, Targets, allocate, candidates, top
from spectral_ft.types import MatrixAllocation, SpectralReport


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class SnrTop:
    """One rank on the top fraction by a column of the report.

    Source: SpectraQLoRA's text. Departs from its code, whose ratio is the mean of the weights over
    their standard deviation: the column is Spectrum's `snr` unless another is named.
    """

    column: str
    top_fraction: Fraction
    scope: Scope
    rank: Rank
    lora_alpha: Alpha
    target_modules: Targets
    lowest_block: Block

    reads_spectrum = True

    def allocate(self, report: SpectralReport) -> tuple[MatrixAllocation, ...]:
        """Allocate.

        Args:
            report: Of the model.

        Returns:
            One allocation a matrix, in the report's order.

        Raises:
            PlanError: If nothing can be selected or the rank is too high for a matrix.
        """
        spectra = candidates(report, target_modules=self.target_modules, lowest_block=self.lowest_block)
        chosen = top(spectra, column=self.column, fraction=self.top_fraction, scope=self.scope)
        return allocate(report, chosen, rank=self.rank, lora_alpha=self.lora_alpha)
