"""How many parameters training moves, and whether that is what was planned."""

import torch

from spectral_ft.errors import PlanError


def trained_parameters(model: torch.nn.Module) -> int:
    """How many parameters training moves.

    Args:
        model: Adapted.

    Returns:
        The number, shared ones once.
    """
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def check_count(model: torch.nn.Module, planned: int) -> None:
    """Refuse a model on which something else is trained than was counted.

    Args:
        model: Adapted.
        planned: Trainable parameters of the plan.

    Raises:
        PlanError: If training would move more or fewer.
    """
    trained = trained_parameters(model)
    if trained != planned:
        raise PlanError(f"the plan counts {planned} trainable parameters, the adapted model has {trained}.")
