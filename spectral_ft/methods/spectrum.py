"""Spectrum: full-precision training of the selected matrices, and of nothing else.

Source: arXiv:2406.06623, section 3.
"""

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spectral_ft.methods.seam import Adapted, BaseModel, Takes
from spectral_ft.types import AllocationPlan, Cost, MatrixAllocation, MatrixShape, Probe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Spectrum:
    """The matrices that the policy selects are trained as they are."""

    name: str

    takes: ClassVar[Takes] = Takes("whole", quantized=False)
    rounds: ClassVar[int] = 0
    activation_checkpointing: ClassVar[bool] = False

    def cost(self, matrix: MatrixShape) -> Cost:
        """What training one matrix costs.

        Args:
            matrix: With its shape.

        Returns:
            All its entries, whatever the rank.
        """
        d_out, d_in = matrix.sides
        return Cost(a=0, b=0, fixed=d_out * d_in)

    def plan(self, allocations: tuple[MatrixAllocation, ...], base: BaseModel) -> AllocationPlan:
        """Count the selected matrices.

        Args:
            allocations: One a matrix; what is not frozen is trained as a whole.
            base: The model.

        Returns:
            The plan: a selected matrix has its full rank, and no adapters are added.
        """
        smaller_side = {matrix.name: matrix.smaller_side for matrix in base.matrices}
        entries = {matrix.name: self.cost(matrix).fixed for matrix in base.matrices}
        whole = tuple(
            MatrixAllocation(a.name, smaller_side[a.name], float(smaller_side[a.name]), a.lr_multiplier)
            if a.rank
            else a
            for a in allocations
        )
        trained = sum(entries[a.name] for a in whole if a.rank) + base.head_parameters
        return AllocationPlan(whole, trained, 0, base.parameters)

    def adapt(
        self, model: "PreTrainedModel", plan: AllocationPlan, *, base: BaseModel, steps: int, probe: Probe | None
    ) -> Adapted:
        """Let the selected matrices be trained.

        Args:
            model: Base; changed in place.
            plan: Which matrices.
            base: The model, as it was counted.
            steps: Of the training; not used.
            probe: Of the model; not used.

        Returns:
            The same model.
        """
        del steps, probe
        from spectral_ft.adapters.tensors import save_tensors, train_tensors

        trained = train_tensors(model, [a.name for a in plan.adapted], heads=base.heads)
        return Adapted(trained, save=partial(save_tensors, trained))
