"""Learning rates by a column of the report: what is less well trained learns faster.

TempBalance gives layer i the learning rate

    eta (low + (high - low) (alpha_i - min alpha) / (max alpha - min alpha))

with (low, high) = (0.5, 1.5) and alpha the Hill estimate of the spectrum's tail: a high alpha, a light tail, is taken
as a sign of a layer that is less well trained.

Source: arXiv:2312.00359, section 3.
"""

from collections import defaultdict
from dataclasses import replace
from statistics import fmean
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.errors import ConfigError, PlanError
from spectral_ft.types import MatrixAllocation, SpectralReport

Multiplier = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class AsAllocated:
    """Every matrix learns as the policy says."""

    reads: ClassVar[frozenset[str]] = frozenset()
    """Columns of the report."""

    def scale(self, allocations: tuple[MatrixAllocation, ...], report: SpectralReport) -> tuple[MatrixAllocation, ...]:
        """Leave the allocations as they are.

        Args:
            allocations: One a matrix.
            report: Not used.

        Returns:
            The same.
        """
        del report
        return allocations


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class ByColumn:
    """The policy's multipliers times one that is linear in a column, between the adapted matrices' least and most."""

    column: str
    low: Multiplier
    high: Multiplier

    def __post_init__(self) -> None:
        """Check the column against the multipliers that a plan keeps.

        Raises:
            ConfigError: If no column is named.
        """
        if not self.column:
            raise ConfigError("lr_by.column is empty: name a column of the spectral report, such as alpha_hill_median.")

    @property
    def reads(self) -> frozenset[str]:
        """Columns of the report."""
        return frozenset({self.column})

    def scale(self, allocations: tuple[MatrixAllocation, ...], report: SpectralReport) -> tuple[MatrixAllocation, ...]:
        """Multiply.

        Args:
            allocations: One a matrix.
            report: With the column.

        Returns:
            The allocations; members of a group, whose shared factor has one learning rate, get their mean value's.

        Raises:
            PlanError: If an adapted matrix has no value in the column.
        """
        values = {spectrum.matrix.name: spectrum.columns.get(self.column) for spectrum in report.matrices}
        groups: dict[str, list[float]] = defaultdict(list)
        for allocation in allocations:
            if allocation.rank:
                value = values[allocation.name]
                if value is None:
                    raise PlanError(
                        f"lr_by.column={self.column} has no value for {allocation.name}: choose a column that all "
                        "adapted matrices have, or leave the matrix out with rank_policy.target_modules."
                    )
                groups[allocation.group or allocation.name].append(value)
        means = {name: fmean(members) for name, members in groups.items()}
        least, spread = min(means.values()), max(means.values()) - min(means.values())

        def multiplier(mean: float) -> float:
            place = (mean - least) / spread if spread else 0.5
            return self.low + (self.high - self.low) * place

        return tuple(
            replace(a, lr_multiplier=a.lr_multiplier * multiplier(means[a.group or a.name])) if a.rank else a
            for a in allocations
        )
