"""What the controls share: another policy's ranks, handed to other matrices at exactly the same cost.

Ranks move only among matrices of one type and shape, so the number of parameters stays what it was. If
the policy's choice of matrices means anything, it must beat these.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spectral_ft.allocation.selection import Given, allocate_each
from spectral_ft.errors import ConfigError
from spectral_ft.types import MatrixAllocation, SpectralReport


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True))
class Control:
    """Another policy, whose ranks are handed to other matrices."""

    of: Any

    def __post_init__(self) -> None:
        """Check that there is another policy.

        Raises:
            ConfigError: If `of` is none, or a control itself.
        """
        if isinstance(self.of, Control):
            raise ConfigError(
                f"rank_policy.of is {type(self.of).__name__.lower()}, itself a control: name another policy."
            )
        if not hasattr(self.of, "allocate"):
            raise ConfigError(f"rank_policy.of={self.of!r} is no policy: name one, as in rank_policy.of=snr_top.")

    @property
    def multipliers(self) -> frozenset[float]:
        """Of the learning rate, that the other policy's plans may have."""
        return frozenset(getattr(self.of, "multipliers", {1.0}))

    @property
    def reads(self) -> frozenset[str]:
        """The report columns that the other policy reads."""
        return frozenset(self.of.reads)


def exchanged(
    of: Any, report: SpectralReport, order: Callable[[list[MatrixAllocation]], list[MatrixAllocation]]
) -> tuple[MatrixAllocation, ...]:
    """Hand each matrix what another of its class had.

    Args:
        of: The policy.
        report: Of the model.
        order: Of the allocations of a class, by name: who hands to whom.

    Returns:
        One allocation a matrix, in the report's order.
    """
    allocated = {allocation.name: allocation for allocation in of.allocate(report)}
    classes: dict[tuple[str, tuple[int, int]], list[str]] = defaultdict(list)
    for spectrum in report.matrices:
        classes[spectrum.matrix.type, spectrum.matrix.sides].append(spectrum.matrix.name)
    given: dict[str, Given] = {}
    for _, names in sorted(classes.items()):
        names.sort()
        for name, source in zip(names, order([allocated[name] for name in names]), strict=True):
            if source.rank:
                given[name] = Given(source.rank, source.lora_alpha, source.lr_multiplier)
    return allocate_each(report, given)
