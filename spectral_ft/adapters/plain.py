"""PEFT methods that need nothing but their configuration: prefix tuning, IA3, norm tuning."""

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from spectral_ft.adapters.counting import check_count, trained_parameters
from spectral_ft.errors import PlanError


def add_plain(model: PreTrainedModel, config: PeftConfig, *, expected: int | None = None) -> PeftModel:
    """Put a PEFT method on a model.

    Args:
        model: Frozen base.
        config: Of the method.
        expected: Trainable parameters that the plan counted; None checks nothing.

    Returns:
        The adapted model.

    Raises:
        PlanError: If PEFT does not know where to put it on this architecture, or the count is another.
    """
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise PlanError(
            f"PEFT cannot put {config.peft_type} on model_type {model.config.model_type!r}: {error} Name the modules "
            "in the method's options (method.target_modules)."
        ) from error
    if expected is not None:
        check_count(adapted, expected)
    return adapted


def count_trained(blueprint: PreTrainedModel, config: PeftConfig) -> int:
    """How many parameters a PEFT method trains.

    Args:
        blueprint: The model without weights.
        config: Of the method.

    Returns:
        The number.
    """
    with torch.device("meta"):
        adapted = add_plain(blueprint.requires_grad_(False), config)
    return trained_parameters(adapted)
