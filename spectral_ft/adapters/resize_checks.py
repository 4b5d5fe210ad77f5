"""What must hold before any adapter is resized: of the model, of both plans, of the optimizer."""

import torch

from spectral_ft.adapters.lora_layer import ADAPTER, factors, is_adapted, is_trained, rank_and_alpha, smaller_side
from spectral_ft.adapters.optimizer_state import fitting_group, holding_group, padded_state
from spectral_ft.errors import PlanError
from spectral_ft.types import MatrixAllocation


def check_same_matrices(before: tuple[MatrixAllocation, ...], after: tuple[MatrixAllocation, ...]) -> None:
    """That two plans are of one model.

    Args:
        before: What the model is now.
        after: What it shall be.

    Raises:
        PlanError: If a matrix is in one of them only.
    """
    if odd := sorted({allocation.name for allocation in before} ^ {allocation.name for allocation in after}):
        raise PlanError(
            f"{len(odd)} matrices are in one of the two plans only, such as {odd[0]}: both must be of this model."
        )


def check_plans(module: torch.nn.Module, was: MatrixAllocation, now: MatrixAllocation) -> None:
    """That a matrix is what the one plan says, and can become what the other says.

    Args:
        module: PEFT's LoRA layer, or the module without an adapter.
        was: By the plan before.
        now: By the plan after.

    Raises:
        PlanError: If it is not, or cannot: a rank above the smaller side, a member of a group, an adapter that is
            switched off, another size of what is frozen.
    """
    name, (rank, alpha), wanted = now.name, rank_and_alpha(module), "no trained adapter"
    found = f"rank {rank}, lora_alpha {alpha:g}, {'trained' if is_trained(module) else 'frozen'}"
    if was.rank:
        wanted = f"rank {was.rank}, lora_alpha {was.lora_alpha:g}, {'trained' if was.lr_multiplier else 'frozen'}"
    if found != wanted and (was.rank or is_trained(module)):
        raise PlanError(
            f"the plan before says of {name}: {wanted}; the model has {found if rank else 'no adapter'}: "
            "give the plan by which this model was made."
        )
    if (was.group or now.group) and was != now:
        raise PlanError(
            f"{name} shares factors in group {was.group or now.group}, and shared factors cannot be resized one by "
            "one: take grouping=none, or method.rounds=1."
        )
    if not now.rank:
        return
    if now.rank > (smaller := smaller_side(module, name)):
        raise PlanError(f"rank {now.rank} of {name} is above its smaller side: take at most {smaller}.")
    if now.lr_multiplier and not now.lora_alpha:
        raise PlanError(f"lora_alpha=0 would switch the adapter of {name} off: give it rank 0 to freeze it as it is.")
    if not now.lr_multiplier and (rank, alpha) != (now.rank, now.lora_alpha):
        raise PlanError(
            f"{name} is to be frozen (lr_multiplier=0) with rank {now.rank}, lora_alpha {now.lora_alpha:g}, but has "
            f"{f'rank {rank}, lora_alpha {alpha:g}' if rank else 'no adapter'}: what is frozen stays as it is."
        )


def check_optimizer(
    optimizer: torch.optim.Optimizer, module: torch.nn.Module, now: MatrixAllocation, *, moves: bool
) -> None:
    """That the optimizer can follow what one matrix becomes.

    Args:
        optimizer: Of the model.
        module: PEFT's LoRA layer, or the linear module that is to become one.
        now: What it becomes.
        moves: Whether to another learning rate, or from frozen to trained.

    Raises:
        PlanError: If it has no group for the learning rate, does not hold the adapter, or its state cannot grow.
    """
    if moves:
        fitting_group(optimizer, now.lr_multiplier, name=now.name)
    if not (is_adapted(module) and is_trained(module)):
        return
    more = max(0, now.rank - module.r[ADAPTER])
    for parameter, shape_more in zip(factors(module), ((more, 0), (0, more)), strict=True):
        holding_group(optimizer, parameter, name=now.name)
        shape = [size + extra for size, extra in zip(parameter.shape, shape_more, strict=True)]
        padded_state(optimizer, parameter, shape, name=now.name)
