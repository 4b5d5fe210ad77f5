"""AdaLoRA: starts with more rank than it may keep, and masks the singular values that matter least.

    h = W x + (lora_alpha / r0) B E A x      E diagonal, one number a rank

Source: arXiv:2303.10512, through PEFT, its schedule called after every optimizer step.
"""

from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.allocation.fitting import parameters, units
from spectral_ft.errors import ConfigError, PlanError
from spectral_ft.methods.seam import Adapted, BaseModel, Takes
from spectral_ft.types import AllocationPlan, Cost, MatrixAllocation, MatrixShape, Probe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class AdaLora:
    """AdaLoRA through PEFT. The policy's one rank is the mean that is left at the end."""

    name: str
    dropout: Annotated[float, Field(ge=0, lt=1)]
    initial_factor: Annotated[float, Field(ge=1)]
    tinit: Share
    tfinal: Share
    interval: Annotated[int, Field(ge=1)]
    orthogonality: Annotated[float, Field(ge=0)]

    takes: ClassVar[Takes] = Takes("one")
    rounds: ClassVar[int] = 0
    activation_checkpointing: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the schedule.

        Raises:
            ConfigError: If it leaves no steps in which ranks go.
        """
        if self.tinit + self.tfinal >= 1:
            raise ConfigError(
                f"method.tinit={self.tinit:g} and method.tfinal={self.tfinal:g} leave no step in which AdaLoRA could "
                "take ranks away: they are shares of the steps at the start and at the end, below 1 together."
            )

    def cost(self, matrix: MatrixShape) -> Cost:
        """What a rank on one matrix costs.

        Args:
            matrix: With its shape.

        Returns:
            `r (d_in + d_out + 1)`.
        """
        d_out, d_in = matrix.sides
        return Cost(a=d_in, b=d_out + 1)

    def plan(self, allocations: tuple[MatrixAllocation, ...], base: BaseModel) -> AllocationPlan:
        """Count what the allocations cost: trainable at the rank that is left, adapters at that of the start.

        Args:
            allocations: One a matrix; all adapted ones of one rank, or of two neighbouring ones after a budget, of
                which the lower is taken.
            base: The model.

        Returns:
            The plan.

        Raises:
            PlanError: If the policy gave different ranks or scalings, or the matrices are too small to start higher.
        """
        given = sorted({a.rank for a in allocations if a.rank})
        if given and given[-1] - given[0] > 1:
            raise PlanError(
                f"method={self.name} takes a selection and finds ranks itself, but the policy gives ranks from "
                f"{given[0]} to {given[-1]}: use a policy of one rank (uniform, snr_top)."
            )
        scalings = {round(a.lora_alpha / a.rank, 9) for a in allocations if a.rank}
        if len(scalings) > 1:
            raise PlanError(
                f"method={self.name} has one scaling, but the policy gives {len(scalings)} values of lora_alpha / rank "
                f"({', '.join(f'{value:g}' for value in sorted(scalings))}): use a policy of one rank and lora_alpha."
            )
        one = tuple(
            MatrixAllocation(a.name, given[0], a.lora_alpha / a.rank * given[0], a.lr_multiplier) if a.rank else a
            for a in allocations
        )
        costs = {matrix.name: self.cost(matrix) for matrix in base.matrices}
        kept = units(one, base.matrices, costs)
        initial = self._initial_rank(given[0], min(unit.largest_rank for unit in kept)) if given else 0
        started = sum(initial * unit.per_rank for unit in kept)
        return AllocationPlan(
            one, parameters(kept) + base.head_parameters, started + base.head_parameters, base.parameters
        )

    def adapt(
        self, model: "PreTrainedModel", plan: AllocationPlan, *, base: BaseModel, steps: int, probe: Probe | None
    ) -> Adapted:
        """Put fresh adapters on a model.

        Args:
            model: Frozen base.
            plan: Which matrices, and the rank that is left on average.
            base: The model, as it was counted.
            steps: Of the training, which the schedule is a share of.
            probe: Of the model; not used.

        Returns:
            The adapted model, with its schedule and the allocator's memory.

        Raises:
            PlanError: If the training is too short for the schedule.
        """
        del probe
        from peft import AdaLoraConfig

        from spectral_ft.adapters import adalora

        self.check_steps(steps)
        first, (tinit, tfinal) = plan.adapted[0], self._schedule(steps)
        smaller_side = {matrix.name: matrix.smaller_side for matrix in base.matrices}
        initial = self._initial_rank(first.rank, min(smaller_side[a.name] for a in plan.adapted))
        config = AdaLoraConfig(
            task_type=base.task_type,
            target_modules=[a.name for a in plan.adapted],
            modules_to_save=list(base.heads) or None,
            target_r=first.rank,
            init_r=initial,
            lora_alpha=first.lora_alpha / first.rank * initial,  # type: ignore[arg-type]  # PEFT divides it by init_r
            lora_dropout=self.dropout,
            tinit=tinit,
            tfinal=tfinal,
            deltaT=self.interval,
            orth_reg_weight=self.orthogonality,
            total_step=steps,
        )
        adapted = adalora.add_adalora(model, config)
        return Adapted(
            adapted,
            save=partial(adalora.save_adalora, adapted),
            after_step=partial(adalora.after_step, adapted),
            state=partial(adalora.allocator_state, adapted),
            restore=partial(adalora.restore_allocator, adapted),
        )

    def check_steps(self, steps: int) -> None:
        """Look for a step in which ranks could go.

        Args:
            steps: Of the training.

        Raises:
            PlanError: If there is none.
        """
        tinit, tfinal = self._schedule(steps)
        if not steps - tfinal - 1 > 0 or tinit >= steps - tfinal:
            raise PlanError(
                f"a training of {steps} steps is too short for AdaLoRA: method.tinit={self.tinit:g} and "
                f"method.tfinal={self.tfinal:g} leave no step in which ranks could go. Raise training.max_steps."
            )

    def _schedule(self, steps: int) -> tuple[int, int]:
        return round(self.tinit * steps), round(self.tfinal * steps)

    def _initial_rank(self, rank: int, largest: int) -> int:
        initial = min(round(self.initial_factor * rank), largest)
        if initial <= rank:
            raise PlanError(
                f"method.initial_factor={self.initial_factor:g} makes {initial} of rank {rank} (the smallest side of a "
                f"matrix is {largest}), so AdaLoRA has no rank to take away: raise the factor or lower the rank."
            )
        return initial
