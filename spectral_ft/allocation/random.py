"""Control: another policy's ranks, permuted at random."""

import random as chance
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.allocation.control import Control, exchanged
from spectral_ft.types import MatrixAllocation, SpectralReport


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Random(Control):
    """Another policy's ranks, permuted at random within each class of type and shape."""

    seed: Annotated[int, Field(ge=0)]
    """Of the permutation; where its file says null, it is built with the run's."""

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

        return exchanged(self.of, report, permuted)
