"""Controls: another policy's ranks, handed to other matrices at exactly the same cost.

Ranks move only among matrices of one type and shape, so the number of parameters stays what it was. If
the policy's choice of matrices means anything, it must beat these.
"""

import random as chance
from collections import defaultdict
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.allocation.selection import Given, allocate_each
from spectral_ft.errors import ConfigError
from spectral_ft.types import MatrixAllocation, SpectralReport

STRICT = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)


@dataclass(frozen=True, config=STRICT)
class Random:
    """Another policy's ranks, permuted at random within each class of type and shape."""

    of: Any
    seed: Annotated[int, Field(ge=0)]

    def __post_init__(self) -> None:
        """Check that there is another policy.

        Raises:
            ConfigError: If `of` is none.
        """
        _check(self.of)

    @property
    def reads_spectrum(self) -> bool:
        """As the other policy does."""
        return bool(self.of.reads_spectrum)

    def allocate(self, report: SpectralReport) -> tuple[MatrixAllocation, ...]:
        """Allocate.

        Args:
            report: Of the model.

        Returns:
            One allocation a matrix, in the report's order.
        """
        draw = chance.Random(self.seed)

        def permuted(members: list[MatrixAllocation]) -> list[MatrixAllocation]:
            return draw.sample(members, len(members))

        return _exchanged(self.of, report, permuted)


@dataclass(frozen=True, config=STRICT)
class Inverse:
    """Another policy's ranks, reversed within each class: the lowest gets what the highest had."""

    of: Any

    def __post_init__(self) -> None:
        """Check that there is another policy.

        Raises:
            ConfigError: If `of` is none.
        """
        _check(self.of)

    @property
    def reads_spectrum(self) -> bool:
        """As the other policy does."""
        return bool(self.of.reads_spectrum)

    def allocate(self, report: SpectralReport) -> tuple[MatrixAllocation, ...]:
        """Allocate.

        Args:
            report: Of the model.

        Returns:
            One allocation a matrix, in the report's order.
        """

        def reversed_by_rank(members: list[MatrixAllocation]) -> list[MatrixAllocation]:
            order = sorted(range(len(members)), key=lambda index: (members[index].rank, members[index].name))
            found = list(members)
            for here, there in zip(order, reversed(order), strict=True):
                found[here] = members[there]
            return found

        return _exchanged(self.of, report, reversed_by_rank)


def _check(of: Any) -> None:
    if not hasattr(of, "allocate"):
        raise ConfigError(f"rank_policy.of={of!r} is no policy: name one, as in rank_policy.of=snr_top.")
    if isinstance(of, (Random, Inverse)):
        raise ConfigError(f"rank_policy.of is {type(of).__name__.lower()}, itself a control: name a policy of its own.")


def _exchanged(
    of: Any, report: SpectralReport, order: Callable[[list[MatrixAllocation]], list[MatrixAllocation]]
) -> tuple[MatrixAllocation, ...]:
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
