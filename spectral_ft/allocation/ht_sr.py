"""LoRA-AR's rule: the better a matrix looks trained, by its tail and its spikes, the less rank it gets."""

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.allocation.selection import (
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
from spectral_ft.errors import ConfigError
from spectral_ft.types import MatrixAllocation, SpectralReport

SMALLEST_RANGE = 1e-8
"""Added to the range of a column before dividing by it; the source's number."""
SCALINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda score: score,
    "log": np.log1p,
    "sqrt": np.sqrt,
}


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class HtSr:
    """Ranks in proportion to a score of heavy-tailed self-regularisation.

    Within each scope `a` is the tail exponent scaled to [0, 1], `b` one minus the scaled count of
    spikes, and the score `w_hill a + w_mp_spikes b`: high for a matrix with a light tail and few
    spikes. The scores that are kept, scaled to [0, 1], set the rank between `min_rank` and
    `max_rank`, rounded half to even.

    Source: LoRA-AR, sections 3.2-3.3 and eqs. 5-8. `select` names its variants: `highest` keeps the
    highest scores, the direction of the text; `all` is eq. 8; `lowest` is what the released code
    does.
    """

    column: str
    spikes_column: str
    scope: Scope
    select: Literal["highest", "all", "lowest"]
    top_fraction: Fraction
    w_hill: Annotated[float, Field(ge=0)]
    w_mp_spikes: Annotated[float, Field(ge=0)]
    min_rank: Rank
    max_rank: Rank
    rank_scaling: Literal["linear", "log", "sqrt"]
    alpha_factor: Annotated[float, Field(gt=0)]
    target_modules: Targets
    lowest_block: Block

    @property
    def reads(self) -> frozenset[str]:
        """The report columns that the score is made of."""
        return frozenset({self.column, self.spikes_column})

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
            report: Of the model.

        Returns:
            One allocation a matrix, in the report's order; frozen where a column is null.

        Raises:
            PlanError: If nothing can be selected.
        """
        spectra = candidates(report, target_modules=self.target_modules, lowest_block=self.lowest_block)
        smaller_side = {spectrum.matrix.name: spectrum.matrix.smaller_side for spectrum in spectra}
        spikes = {
            name: value
            for members in ranked(spectra, column=self.spikes_column, scope="global").values()
            for value, name in members
        }
        given: dict[str, Given] = {}
        for members in ranked(spectra, column=self.column, scope=self.scope).values():
            known = sorted((name, value) for value, name in members if name in spikes)
            if not known:
                continue
            names = [name for name, _ in known]
            tails = _scaled(np.array([value for _, value in known]))
            few_spikes = 1 - _scaled(np.array([spikes[name] for name in names]))
            score = self.w_hill * tails + self.w_mp_spikes * few_spikes
            kept = self._kept(names, score)
            share = _scaled(SCALINGS[self.rank_scaling](score[kept]))
            for index, g in zip(kept, share, strict=True):
                rank = round(self.min_rank + (self.max_rank - self.min_rank) * float(g))
                rank = min(max(rank, self.min_rank), self.max_rank, smaller_side[names[index]])
                given[names[index]] = Given(rank, self.alpha_factor * rank)
        return allocate_each(report, given)

    def _kept(self, names: list[str], score: np.ndarray) -> list[int]:
        # Indices, in the order of names. Equal scores go by name.
        if self.select == "all":
            return list(range(len(names)))
        sign = -1 if self.select == "highest" else 1
        order = sorted(range(len(names)), key=lambda index: (sign * score[index], names[index]))
        return sorted(order[: count_of(self.top_fraction, len(names))])


def _scaled(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / (values.max() - values.min() + SMALLEST_RANGE)
