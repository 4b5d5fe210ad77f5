"""Rank where the loss pulls hardest: in proportion to the size of the gradient on calibration batches."""

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.allocation.selection import Block, Given, Rank, Scope, Targets, allocate_each, candidates, ranked
from spectral_ft.errors import ConfigError, PlanError
from spectral_ft.types import MatrixAllocation, SpectralReport


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Gradient:
    """Ranks in proportion to `|G|_F^2 / entries of G`, averaged over the batches of the probe.

    Within each scope the ranks have the mean `rank` before they are rounded half to even and clipped to
    [min_rank, min(max_rank, m)].
    """

    column: str
    scope: Scope
    rank: Rank
    min_rank: Rank
    max_rank: Rank
    alpha_factor: Annotated[float, Field(gt=0)]
    target_modules: Targets
    lowest_block: Block

    @property
    def reads(self) -> frozenset[str]:
        """The report columns that the ranks are made of."""
        return frozenset({self.column})

    def __post_init__(self) -> None:
        """Check the ranks.

        Raises:
            ConfigError: If `min_rank` is above `max_rank`.
        """
        if self.min_rank > self.max_rank:
            raise ConfigError(f"rank_policy.min_rank={self.min_rank} is above max_rank={self.max_rank}.")

    def allocate(self, report: SpectralReport) -> tuple[MatrixAllocation, ...]:
        """Allocate.

        Args:
            report: Of the model, with the probe's columns.

        Returns:
            One allocation a matrix, in the report's order.

        Raises:
            PlanError: If a value is negative, or all of a scope are zero: nothing is in proportion to them.
        """
        spectra = candidates(report, target_modules=self.target_modules, lowest_block=self.lowest_block)
        smaller_side = {spectrum.matrix.name: spectrum.matrix.smaller_side for spectrum in spectra}
        given: dict[str, Given] = {}
        for scope, members in ranked(spectra, column=self.column, scope=self.scope).items():
            mean, (lowest, name) = sum(value for value, _ in members) / len(members), members[-1]
            if lowest < 0 or mean == 0:
                raise PlanError(
                    f"rank_policy.column={self.column!r} is {lowest:.4g} for {name} and {mean:.4g} on average over the "
                    f"{len(members)} matrices of {scope}: ranks need values that are not negative, and not all zero."
                )
            for value, name in members:
                rank = min(max(round(self.rank * value / mean), self.min_rank), self.max_rank, smaller_side[name])
                given[name] = Given(rank, self.alpha_factor * rank)
        return allocate_each(report, given)
