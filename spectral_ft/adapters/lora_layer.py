"""What a PEFT layer with our one LoRA adapter says of itself: factors, rank, scaling, update."""

from typing import Any, TypeGuard

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch.nn import Parameter
from transformers.pytorch_utils import Conv1D

from spectral_ft.errors import PlanError

ADAPTER = "default"
"""PEFT's name of a model's one adapter."""


def is_adapted(module: object) -> TypeGuard[LoraLayer]:
    """Whether a module is a LoRA layer that has our adapter.

    Args:
        module: Any, also none.

    Returns:
        Whether it is.
    """
    return isinstance(module, LoraLayer) and ADAPTER in module.lora_A


def factors(layer: LoraLayer) -> tuple[Parameter, Parameter]:
    """The parameters of an adapter.

    Args:
        layer: With our adapter.

    Returns:
        A (rank, d_in) and B (d_out, rank).
    """
    linears: Any = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    return linears[0].weight, linears[1].weight


def is_trained(module: object) -> bool:
    """Whether a module has an adapter that is not frozen.

    Args:
        module: Any, also none.

    Returns:
        Whether it has.
    """
    return is_adapted(module) and all(factor.requires_grad for factor in factors(module))


def rank_and_alpha(module: object) -> tuple[int, float]:
    """The size of an adapter.

    Args:
        module: Any, also none.

    Returns:
        Rank and lora_alpha; zeros without an adapter.
    """
    return (module.r[ADAPTER], module.lora_alpha[ADAPTER]) if is_adapted(module) else (0, 0.0)


def smaller_side(module: torch.nn.Module, name: str) -> int:
    """The largest rank that an adapter of a module can have.

    Args:
        module: Linear, or a LoRA layer; also what is quantized, whose weight has another shape.
        name: Of the module, for the message.

    Returns:
        The smaller of d_in and d_out.

    Raises:
        PlanError: If it is no linear module.
    """
    if isinstance(module, LoraLayer | torch.nn.Linear):
        return min(module.in_features, module.out_features)
    if isinstance(module, Conv1D):
        return int(min(module.weight.shape))
    raise PlanError(f"{name} is a {type(module).__name__}, no linear module, so it can take no LoRA adapter.")


def check_plain(layer: LoraLayer, name: str) -> None:
    """Refuse an adapter whose update is more than `scaling B A`.

    Args:
        layer: With our adapter.
        name: Of the matrix, for the message.

    Raises:
        PlanError: If it is DoRA's, a variant, has a bias, is merged, or sits on no linear weight.
    """
    variant = layer.lora_variant.get(ADAPTER)
    if layer.use_dora[ADAPTER]:
        raise PlanError(
            f"{name} has a DoRA layer, whose magnitudes belong to its present update: it can be neither resized nor "
            "frozen in mid-training. Set method.rounds=1."
        )
    if variant is not None or layer.lora_bias[ADAPTER] or layer.merged_adapters or factors(layer)[0].ndim != 2:
        raise PlanError(
            f"{name} has a LoRA variant, a LoRA bias, a merged adapter, or is no linear module: only plain LoRA on a "
            "linear weight, unmerged, can be re-allocated."
        )


def update_of(model: PeftModel, name: str) -> np.ndarray:
    """The update of one matrix, `scaling B A`.

    Args:
        model: With LoRA layers.
        name: Module path in the base, as in a plan.

    Returns:
        float64 (d_out, d_in), whatever the orientation of the base's weight.

    Raises:
        PlanError: If there is no plain LoRA adapter of that name.
    """
    layer = dict(model.get_base_model().named_modules()).get(name)
    if not is_adapted(layer):
        raise PlanError(f"{name} has no LoRA adapter, so it has no update: ask for adapted matrices only.")
    check_plain(layer, name)
    return factored_update(layer)


def factored_update(layer: LoraLayer) -> np.ndarray:
    """`scaling B A` of one layer.

    Args:
        layer: Of PEFT, with our adapter.

    Returns:
        float64 (d_out, d_in).
    """
    a, b = factors(layer)
    update: np.ndarray = (layer.scaling[ADAPTER] * (b.detach().double() @ a.detach().double())).cpu().numpy()
    return update
