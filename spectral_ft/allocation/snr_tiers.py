"""ALoRS's rule: three tiers by signal-to-noise ratio, of high, of low and of no rank."""

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.allocation.selection import (
    Alpha,
    Block,
    Fraction,
    Given,
    Rank,
    Scope,
    Targets,
    allocate_each,
    candidates,
    count_of,
    ranked,
)
from spectral_ft.errors import ConfigError, PlanError
from spectral_ft.types import MatrixAllocation, SpectralReport

Pair = Field(min_length=2, max_length=2)


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Tier:
    """What the matrices of one tier get."""

    rank: Rank
    lora_alpha: Alpha
    lr_multiplier: Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class SnrTiers:
    """A high tier, a middle tier, the rest frozen; by fractions of each scope, or by values of the column.

    Source: ALoRS's text and code, whose thresholds on another ratio are 0.7 and 0.2. Departs from
    them: the column is Spectrum's `snr`, and quarters are taken instead of thresholds unless asked.

    Known gaps: the plan carries the tiers' learning-rate multipliers; training warns that it does
    not apply them yet.
    """

    column: str
    scope: Scope
    fractions: Annotated[list[Fraction], Pair] | None
    thresholds: Annotated[list[float], Pair] | None
    high: Tier
    mid: Tier
    target_modules: Targets
    lowest_block: Block

    @property
    def multipliers(self) -> frozenset[float]:
        """Of the learning rate, that a plan may have."""
        return frozenset({self.high.lr_multiplier, self.mid.lr_multiplier})

    @property
    def reads(self) -> frozenset[str]:
        """The report columns that are ranked by."""
        return frozenset({self.column})

    def __post_init__(self) -> None:
        """Check that the tiers are told apart in one way.

        Raises:
            ConfigError: If both or neither of `fractions` and `thresholds` are given, or they
                overlap.
        """
        if (self.fractions is None) == (self.thresholds is None):
            raise ConfigError(
                "rank_policy.fractions and rank_policy.thresholds: give one of them, and null for the other."
            )
        if self.fractions is not None and sum(self.fractions) > 1:
            raise ConfigError(f"rank_policy.fractions={self.fractions} add up to {sum(self.fractions):g}, above 1.")
        if self.thresholds is not None and self.thresholds[0] <= self.thresholds[1]:
            raise ConfigError(f"rank_policy.thresholds={self.thresholds}: the first must be above the second.")

    def allocate(self, report: SpectralReport) -> tuple[MatrixAllocation, ...]:
        """Allocate.

        Args:
            report: Of the model.

        Returns:
            One allocation a matrix, in the report's order.

        Raises:
            PlanError: If nothing can be selected or a rank is too high for a matrix.
        """
        spectra = candidates(report, target_modules=self.target_modules, lowest_block=self.lowest_block)
        given: dict[str, Given] = {}
        scopes = ranked(spectra, column=self.column, scope=self.scope)
        for members in scopes.values():
            for position, (value, name) in enumerate(members):
                tier = self._tier(position, len(members), value)
                if tier is not None:
                    given[name] = Given(tier.rank, tier.lora_alpha, tier.lr_multiplier)
        if not given:
            highest = max(value for members in scopes.values() for value, _ in members)
            raise PlanError(
                f"rank_policy.thresholds={self.thresholds} on {self.column} select nothing: its highest value is "
                f"{highest:.4g}."
            )
        return allocate_each(report, given, targets=self.target_modules)

    def _tier(self, position: int, count: int, value: float) -> Tier | None:
        if self.thresholds is not None:
            high, mid = (value > threshold for threshold in self.thresholds)
        else:
            first, second = self.fractions or (0.0, 0.0)
            high = position < count_of(first, count)
            mid = position < max(count_of(first + second, count), count_of(first, count))
        return self.high if high else self.mid if mid else None
