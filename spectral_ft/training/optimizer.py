"""Which parameters are stepped together: those of one learning rate."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, cast

import torch
from transformers import Trainer, TrainingArguments


def build_optimizer(
    model: torch.nn.Module,
    arguments: TrainingArguments,
    multipliers: Mapping[str, float],
    *,
    possible: Collection[float] = (),
) -> torch.optim.Optimizer:
    """The optimizer that the arguments name, over groups of one learning rate and weight decay each.

    Norms and biases (parameters of fewer than two sides) have no weight decay.

    Args:
        model: Adapted.
        arguments: Learning rate, weight decay, and the optimizer's name.
        multipliers: Module name to what its learning rate is multiplied by; 1 where it is not named.
        possible: Further multipliers that a later round may give; they have an empty group.

    Returns:
        The optimizer, its groups in the order of multiplier, then from the largest weight decay down: the same order
        after a resumption, and the first group of a multiplier is the one for a factor that a round adds.
    """
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = defaultdict(list)
    for multiplier in possible:
        groups[multiplier, arguments.weight_decay] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = arguments.weight_decay if parameter.ndim > 1 else 0.0
            groups[_multiplier(name, multipliers), decay].append(parameter)
    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, cast(Any, model))
    members: list[dict[str, Any]] = [
        {
            "params": parameters,
            "lr": arguments.learning_rate * multiplier,
            "weight_decay": decay,
            "lr_multiplier": multiplier,  # by which a later round finds the group of what it adds
        }
        for (multiplier, decay), parameters in sorted(groups.items(), key=lambda group: (group[0][0], -group[0][1]))
    ]
    return kind(members, **options)


def _multiplier(parameter: str, multipliers: Mapping[str, float]) -> float:
    # The parameter of an adapter is below its module: base_model.model.NAME.lora_A.default.weight.
    parts = parameter.split(".")
    for end in range(len(parts) - 1, 0, -1):
        for start in range(end):
            found = multipliers.get(".".join(parts[start:end]))
            if found is not None:
                return found
    return 1.0
