"""Bottleneck adapters: a small network with a tanh between, before some modules or beside them.

    series:   h = W (x + up(tanh(down(x))))      parallel:   h = W x + up(tanh(down(x)))

Source: LLM-Adapters, arXiv:2304.01933, section 3; without biases, as published.
"""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.errors import PlanError
from spectral_ft.methods.seam import Adapted, BaseModel, Takes
from spectral_ft.types import AllocationPlan, MatrixAllocation, Probe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Bottleneck:
    """Bottleneck adapters at every module of some types."""

    name: str
    placement: Literal["series", "parallel"]
    sites: list[str]
    size: Annotated[int, Field(ge=1)]
    init: Literal["zero", "bert"]

    takes: ClassVar[Takes] = Takes("none", heads=False)
    rounds: ClassVar[int] = 0
    activation_checkpointing: ClassVar[bool] = False

    def plan(self, allocations: tuple[MatrixAllocation, ...], base: BaseModel) -> AllocationPlan:
        """Name the sites and count what they cost.

        Args:
            allocations: Of no policy.
            base: The model.

        Returns:
            The plan: the sites have the bottleneck's size as their rank, which may be above the smaller side.

        Raises:
            PlanError: If the model has no module of one of the types.
        """
        from spectral_ft.adapters.bottleneck import bottleneck_parameters

        del allocations
        types = sorted({matrix.type for matrix in base.matrices})
        if missing := sorted(set(self.sites) - set(types)):
            raise PlanError(
                f"method.sites has {missing[0]}, which is no module type of the model; there is {', '.join(types)}."
            )
        sizes = {matrix.name: self.size for matrix in base.matrices if matrix.type in self.sites}
        chosen = tuple(
            MatrixAllocation(matrix.name, sizes.get(matrix.name, 0), float(sizes.get(matrix.name, 0)))
            for matrix in base.matrices
        )
        trained = bottleneck_parameters(sizes, base.matrices, placement=self.placement)
        return AllocationPlan(chosen, trained, trained, base.parameters)

    def adapt(
        self, model: "PreTrainedModel", plan: AllocationPlan, *, base: BaseModel, steps: int, probe: Probe | None
    ) -> Adapted:
        """Put fresh adapters on a model.

        Args:
            model: Frozen base; changed in place.
            plan: The sites.
            base: The model, as it was counted; not used.
            steps: Of the training; not used.
            probe: Of the model; not used.

        Returns:
            The adapted model.
        """
        del base, steps, probe
        from spectral_ft.adapters.bottleneck import add_bottlenecks, save_bottlenecks

        sizes = {allocation.name: allocation.rank for allocation in plan.adapted}
        adapted = add_bottlenecks(model, sizes, placement=self.placement, init=self.init)
        return Adapted(adapted, save=lambda folder: save_bottlenecks(adapted, folder))
