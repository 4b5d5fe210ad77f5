"""The embedded model with bottleneck adapters at the published sites."""

import bitsandbytes
import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from spectral_ft.adapters.bottleneck import add_bottlenecks
from spectral_ft.adapters.bottleneck_layer import Placement
from tests.conftest import EMBEDDED

SITES: dict[Placement, tuple[str, str]] = {"series": ("gate_proj", "up_proj"), "parallel": ("up_proj", "down_proj")}
both = pytest.mark.parametrize("placement", SITES)
PACKED = {
    "nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32),
    "int8": BitsAndBytesConfig(load_in_8bit=True),
}
KINDS = {"nf4": bitsandbytes.nn.Linear4bit, "int8": bitsandbytes.nn.Linear8bitLt}


def base(dtype: torch.dtype = torch.float32, packing: str | None = None) -> PreTrainedModel:
    options = {"quantization_config": PACKED[packing], "device_map": "cpu"} if packing else {}
    return AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=dtype, **options).requires_grad_(False).eval()


def sizes_of(placement: Placement, size: int = 5) -> dict[str, int]:
    return {f"model.layers.{block}.mlp.{kind}": size for block in range(4) for kind in SITES[placement]}


def adapted(placement: Placement, model: PreTrainedModel | None = None, size: int = 5) -> PreTrainedModel:
    """With adapters that do something, the same ones at each call."""
    torch.manual_seed(0)
    model = add_bottlenecks(model or base(), sizes_of(placement, size), placement=placement, init="bert")
    for name, parameter in model.named_parameters():
        if ".bottleneck_" in name:
            parameter.data.mul_(10)
    return model


def trainable(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
