"""What a matrix has become: the weight that stands for the base and its adapter together.

LoRA: W + scaling B A        DoRA: each row of that, at the length that was trained
"""

import numpy as np
from peft import PeftModel

from spectral_ft.adapters.lora_layer import ADAPTER, factored_update, is_adapted
from spectral_ft.errors import PlanError


def trained_weight(model: PeftModel, name: str, weight: np.ndarray) -> np.ndarray:
    """The weight of one adapted matrix.

    Source: LoRA, arXiv:2106.09685, eq. 3; DoRA, arXiv:2402.09353, eq. 5.

    Args:
        model: With LoRA or DoRA layers.
        name: Module path in the base, as in a plan.
        weight: Of the base, (d_out, d_in), unquantized.

    Returns:
        float64 (d_out, d_in).

    Raises:
        PlanError: If the matrix has no such adapter.
    """
    layer = dict(model.get_base_model().named_modules()).get(name)
    if not is_adapted(layer):
        raise PlanError(f"{name} has no LoRA adapter, so it is what it was: ask for adapted matrices only.")
    whole = weight + factored_update(layer)
    magnitudes = getattr(layer, "lora_magnitude_vector", {})
    if ADAPTER not in magnitudes:
        return whole
    lengths = magnitudes[ADAPTER].weight.detach().double().cpu().numpy().reshape(-1)
    scaled: np.ndarray = whole * (lengths / np.linalg.norm(whole, axis=1))[:, None]
    return scaled
