"""What a matrix has become: the weight that stands for the base and its adapter together.

LoRA: W + scaling B A        AdaLoRA: W + scaling / ranks B E A
DoRA: each row of LoRA's, at the length that was trained
IA3:  diag(l) W, or W diag(l) where it scales a feed-forward module's input
"""

from typing import Any

import numpy as np
import torch
from peft import PeftModel

from spectral_ft.adapters.lora_layer import ADAPTER, factored_update
from spectral_ft.errors import PlanError


def trained_matrices(model: PeftModel) -> tuple[str, ...]:
    """The matrices that an adapter changes.

    Args:
        model: With adapters of any PEFT method.

    Returns:
        Module paths in the base, as in a plan; none for a method that leaves weights as they are.
    """
    return tuple(name for name, layer in model.get_base_model().named_modules() if _kind(layer) is not None)


def trained_weight(model: PeftModel, name: str, weight: np.ndarray) -> np.ndarray:
    """The weight of one adapted matrix.

    Source: LoRA, arXiv:2106.09685, eq. 3; DoRA, arXiv:2402.09353, eq. 5; AdaLoRA, arXiv:2303.10512, eq. 3; IA3,
    arXiv:2205.05638, section 3.3. AdaLoRA's scaling is PEFT's.

    Args:
        model: With LoRA, DoRA, AdaLoRA or IA3 layers.
        name: Module path in the base, as in a plan.
        weight: Of the base, (d_out, d_in), unquantized.

    Returns:
        float64 (d_out, d_in).

    Raises:
        PlanError: If the matrix has no such adapter.
    """
    layer: Any = dict(model.get_base_model().named_modules()).get(name)
    kind = _kind(layer)
    if kind is None:
        raise PlanError(f"{name} has no LoRA adapter, so it is what it was: ask for adapted matrices only.")
    if kind == "ia3_l":
        scaled: np.ndarray = weight * _array(layer.ia3_l[ADAPTER])
        return scaled
    if kind == "lora_E":
        update = _array(layer.get_delta_weight(ADAPTER))
        return np.asarray(weight + (update.T if layer.fan_in_fan_out else update))
    whole = weight + factored_update(layer)
    magnitudes = getattr(layer, "lora_magnitude_vector", {})
    if ADAPTER not in magnitudes:
        return whole
    lengths = _array(magnitudes[ADAPTER].weight).reshape(-1)
    turned: np.ndarray = whole * (lengths / np.linalg.norm(whole, axis=1))[:, None]
    return turned


def _kind(layer: Any) -> str | None:
    # The parameter by which a layer's adapter is known; AdaLoRA has both of the latter.
    return next((name for name in ("ia3_l", "lora_E", "lora_A") if ADAPTER in getattr(layer, name, {})), None)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return np.asarray(tensor.detach().double().cpu().numpy())
