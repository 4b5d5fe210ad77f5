"""AdaLoRA's adapters and its allocator, whose state can be kept."""

from pathlib import Path
from typing import Any, cast

import torch
from peft import AdaLoraConfig, AdaLoraModel, PeftModel, get_peft_model
from transformers import PreTrainedModel

from spectral_ft.adapters.lora_layer import ADAPTER

ALLOCATOR = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""The allocator's importance of each factor, and the two running means it is judged by."""


def add_adalora(model: PreTrainedModel, config: AdaLoraConfig) -> PeftModel:
    """Put AdaLoRA's adapters on a model.

    Args:
        model: Frozen base.
        config: Ranks and schedule.

    Returns:
        The adapted model; its allocator runs when `after_step` is called.
    """
    return cast(PeftModel, get_peft_model(model, config))


def after_step(model: PeftModel, step: int) -> None:
    """Let the allocator look at the gradients and mask what matters least.

    Args:
        model: As `add_adalora` made it.
        step: Number of finished optimizer steps.
    """
    _tuner(model).update_and_allocate(step)


def allocator_state(model: PeftModel) -> dict[str, Any]:
    """What the allocator remembers.

    Args:
        model: As `add_adalora` made it.

    Returns:
        Tensors by parameter name, and the ranks that are kept.
    """
    allocator = _tuner(model).rankallocator
    return {
        **{key: dict(getattr(allocator, key)) for key in ALLOCATOR},
        "rank_pattern": _config(model).rank_pattern,
    }


def restore_allocator(model: PeftModel, state: dict[str, Any]) -> None:
    """Give the allocator its memory back.

    Args:
        model: As `add_adalora` made it.
        state: Of `allocator_state`.
    """
    allocator = _tuner(model).rankallocator
    for key in ALLOCATOR:
        getattr(allocator, key).update(state[key])
    _config(model).rank_pattern = state["rank_pattern"]


def save_adalora(model: PeftModel, folder: Path) -> None:
    """Write the adapters as they are.

    PEFT writes the singular values that were left when it last masked them, and those of the others that have grown
    again by then count in the model too: a training that ends between two maskings, or goes back to a step between
    them, would be saved as another model.

    Args:
        model: As `add_adalora` made it.
        folder: Made where it is missing.
    """
    pattern = _config(model).rank_pattern
    if pattern is not None:
        grown = {
            name: [kept or bool(value) for kept, value in zip(mask, _singular_values(model, name), strict=True)]
            for name, mask in pattern.items()
        }
        _config(model).rank_pattern = grown
    model.save_pretrained(str(folder))


def ranks(model: PeftModel) -> dict[str, int]:
    """How many singular values each adapter has left.

    Args:
        model: As `add_adalora` made it.

    Returns:
        Module name to rank.
    """
    return {
        name: int(torch.count_nonzero(layer.lora_E[ADAPTER]))
        for name, layer in model.get_base_model().named_modules()
        if ADAPTER in getattr(layer, "lora_E", {})
    }


def _singular_values(model: PeftModel, name: str) -> list[float]:
    # The allocator's names have the adapter's in them, and no longer once PEFT has saved the model.
    full = name if name.endswith(f".{ADAPTER}") else f"{name}.{ADAPTER}"
    values: list[float] = model.get_base_model().get_parameter(full).view(-1).tolist()
    return values


def _tuner(model: PeftModel) -> AdaLoraModel:
    return cast(AdaLoraModel, model.base_model)


def _config(model: PeftModel) -> AdaLoraConfig:
    return cast(AdaLoraConfig, model.peft_config[ADAPTER])
