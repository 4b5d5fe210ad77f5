"""Low-rank factors that several matrices have in common.

A shared factor is one Parameter: autograd sums what its members contribute, the optimizer steps it once, it is
counted once. The saved form is a standard PEFT adapter in which each member has a copy.
"""

from collections import defaultdict

from peft import PeftModel

from spectral_ft.adapters.lora_layer import ADAPTER
from spectral_ft.errors import PlanError
from spectral_ft.types import AllocationPlan, MatrixAllocation


def tie(model: PeftModel, plan: AllocationPlan) -> None:
    """Make the shared factors of each group one Parameter: that of its first matrix by name.

    Args:
        model: With LoRA layers as the plan says.
        plan: With or without groups.

    Raises:
        PlanError: If the factors of a group do not have one shape.
    """
    groups: dict[str, list[MatrixAllocation]] = defaultdict(list)
    for allocation in plan.adapted:
        if allocation.group is not None:
            groups[allocation.group].append(allocation)
    for group, members in groups.items():
        first, *others = sorted(members, key=lambda member: member.name)
        for factor in first.shares or "":
            owner = getattr(_layer(model, first.name), f"lora_{factor}")[ADAPTER]
            for other in others:
                tied = getattr(_layer(model, other.name), f"lora_{factor}")[ADAPTER]
                if tied.weight.shape != owner.weight.shape:
                    raise PlanError(
                        f"group {group} shares {factor} between {first.name} {tuple(owner.weight.shape)} and "
                        f"{other.name} {tuple(tied.weight.shape)}: a group has one shape and one rank."
                    )
                tied.weight = owner.weight


def _layer(model: PeftModel, name: str) -> object:
    return model.get_base_model().get_submodule(name)
