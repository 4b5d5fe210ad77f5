"""A packed base on a CPU: each weight dequantized once, not again at every product.

bitsandbytes dequantizes a matrix whenever it multiplies. A GPU hides that behind the product; a CPU does not, and a
text that is written token by token dequantizes the whole model for every token. Here a packed linear module becomes a
plain one whose weight is what the codes stand for, so that outputs are the same up to the rounding of float32.

In evaluation mode bitsandbytes also rounds the inputs of an 8-bit product (LLM.int8(), arXiv:2208.07339, section 3);
`RoundedInputs` does that with the same routine. Each product is then the same up to 1e-6; over a whole model an input
that lies between two codes may get the other one, as it may between two machines.
"""

from typing import Any, cast

import torch
from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_quant
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from transformers import PreTrainedModel

ACTIVATION_BYTES = 68
"""Per token, block and hidden number in float32: twice the 34 of 16 bits (arXiv:2205.05198, equation 2)."""
ADAPTERS = 0.05
"""Share of the base that adapters are taken to have; each of their parameters has a value, a gradient, two moments."""
MARK = "spectral_ft_on_cpu"
"""Attribute of a model that says how it was held."""
LOGITS = 3
"""Copies of the logits that the model's own loss holds."""

STEP = 127 * 6.200124e-05
"""Of an input's code, where its row's largest entry is 1: bitsandbytes writes 1 / 127^2 with this number (its
`int8_mm_dequant`), which is 2e-5 more."""


class RoundedInputs(torch.nn.Linear):
    """A dequantized 8-bit linear module: in evaluation mode its inputs are rounded as bitsandbytes rounds them."""

    threshold: float
    """Columns with an entry above it keep their precision; 0: none does."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Multiply.

        Args:
            inputs: (..., d_in).

        Returns:
            (..., d_out).
        """
        if self.training or not inputs.numel():  # bitsandbytes does not round in training on a CPU
            return super().forward(inputs)
        with torch.no_grad():
            flat = inputs.reshape(-1, inputs.shape[-1])
            codes, scales, outliers = int8_vectorwise_quant(flat.to(torch.float16), threshold=self.threshold)
            rounded = codes.to(flat.dtype) * (scales * STEP).to(flat.dtype)[:, None]
            if outliers is not None:
                rounded[:, outliers] = flat[:, outliers]
            error = rounded.reshape(inputs.shape) - inputs
        return super().forward(inputs + error)  # the gradient passes as if nothing had been rounded


def is_packed(model: torch.nn.Module) -> bool:
    """Whether any linear module of a model is packed.

    Args:
        model: In memory.

    Returns:
        True where bitsandbytes dequantizes at every product.
    """
    return any(isinstance(module, Linear4bit | Linear8bitLt) for module in model.modules())


def on_cpu(model: PreTrainedModel) -> str | None:
    """How a CPU holds a quantized base, as `quantization.on_cpu` calls it; None for any other base."""
    if model.device.type != "cpu":
        return None
    return "packed" if is_packed(model) else getattr(model, MARK, None)


def dequantize_once(model: PreTrainedModel) -> None:
    """Put a plain linear module in the place of each packed one, one after the other.

    Args:
        model: Frozen, on a CPU, before anything has run and before any adapter; changed in place.
    """
    packed = [(name, module) for name, module in model.named_modules() if isinstance(module, Linear4bit | Linear8bitLt)]
    while packed:
        name, module = packed.pop(0)
        model.set_submodule(name, _plain(module, model.dtype))
    quantizer: Any = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
    for flag in ("is_loaded_in_4bit", "is_loaded_in_8bit"):
        if hasattr(model, flag):
            setattr(model, flag, False)
    cast(Any, model)._weight_conversions = None  # how packed files were read
    setattr(model, MARK, "dequantize_once")


def _plain(module: Linear4bit | Linear8bitLt, dtype: torch.dtype) -> torch.nn.Linear:
    weight: Any = module.weight
    with torch.device("meta"):
        kind = torch.nn.Linear if isinstance(module, Linear4bit) else RoundedInputs
        plain = kind(module.in_features, module.out_features, bias=module.bias is not None)
    if isinstance(module, Linear4bit):
        values = dequantize_4bit(weight.data, weight.quant_state)
    else:
        # As `MatMul8bitFp` does it. Before the first product the scales are with the weight, later with the module.
        scales: Any = weight.SCB if weight.SCB is not None else module.state.SCB
        values = weight.data.to(dtype).mul_(scales.unsqueeze(1).mul(1.0 / 127.0))
        cast(RoundedInputs, plain).threshold = float(module.state.threshold)
    plain.weight = torch.nn.Parameter(values.to(dtype), requires_grad=False)
    if module.bias is not None:
        plain.bias = module.bias
    return plain.train(module.training)


def dequantized_bytes(model: PreTrainedModel, *, tokens: int) -> int:
    """What training on a dequantized base takes, about.

    Args:
        model: Packed.
        tokens: Of a micro batch.

    Returns:
        Bytes of the base, adapters on it with their optimizer, activations and logits.
    """
    entries = sum(_entries(parameter) for parameter in model.parameters())
    config, size = model.config.get_text_config(), model.dtype.itemsize
    wide = max(int(config.hidden_size), int(getattr(config, "intermediate_size", None) or 0) // 4)
    a_token = int(config.num_hidden_layers) * wide * ACTIVATION_BYTES + LOGITS * 4 * int(config.vocab_size)
    return round(entries * (size + ADAPTERS * 16)) + tokens * a_token


def _entries(parameter: Any) -> int:
    state = getattr(parameter, "quant_state", None)
    return int(parameter.numel() if state is None else state.shape.numel())
