"""SpectraQLoRA's rule: adapt the matrices of highest signal-to-noise ratio, freeze the rest."""

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spectral_ft.allocation.selection import (
    Alpha,
    Block,
    Fraction,
    Rank,
    Scope,
    Targets,
    above,
    allocate,
    candidates,
    top,
)
from spectral_ft.errors import ConfigError
from spectral_ft.types import MatrixAllocation, SpectralReport


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class SnrTop:
    """One rank on the top fraction by a column of the report.

    Source: SpectraQLoRA's text. Departs from its code, whose ratio is the mean of the weights over
    their standard deviation: the column is Spectrum's `snr` unless another is named.
    """

    column: str
    top_fraction: Fraction | None
    threshold: float | None
    scope: Scope
    rank: Rank
    lora_alpha: Alpha
    target_modules: Targets
    lowest_block: Block

    @property
    def reads(self) -> frozenset[str]:
        """The report columns that are ranked by."""
        return frozenset({self.column})

    def __post_init__(self) -> None:
        """Check that there is one rule.

        Raises:
            ConfigError: If both or neither of `top_fraction` and `threshold` are given.
        """
        if (self.top_fraction is None) == (self.threshold is None):
            raise ConfigError(
                "rank_policy.top_fraction and rank_policy.threshold: give one of them, null for the other."
            )

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
        if self.threshold is not None:
            chosen = above(spectra, column=self.column, threshold=self.threshold)
        else:
            chosen = top(spectra, column=self.column, fraction=self.top_fraction or 1.0, scope=self.scope)
        return allocate(report, chosen, rank=self.rank, lora_alpha=self.lora_alpha, targets=self.target_modules)
