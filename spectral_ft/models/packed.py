"""Weights that bitsandbytes has packed into 4 or 8 bits: what they stand for, and what packing costs.

A packed tensor is no matrix: its bytes are codes, and a spectrum of them would mean nothing. It is
analysed only on request, after it was dequantized.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from spectral_ft.bfloat16 import widened
from spectral_ft.models.tensors import Tensor

Packing = Literal["nf4", "nf4-double", "int8"]
PACKINGS: tuple[Packing, ...] = ("nf4", "nf4-double", "int8")

STATE = ".quant_state.bitsandbytes__"
"""What follows a 4-bit weight's name in the name of the tensor that describes it."""


@dataclass(frozen=True)
class PackedTensor:
    """A packed tensor of a checkpoint that reads as what it stands for."""

    codes: Tensor
    parts: Mapping[str, Tensor]
    """What bitsandbytes stored beside it, under its own names."""
    shape: tuple[int, ...]
    dtype: str = "F32"
    is_float: bool = True

    def read(self, part: int | None = None) -> np.ndarray:
        """Dequantize.

        Args:
            part: Index along the first side; None takes all.

        Returns:
            float32, its shape.
        """
        import torch
        from bitsandbytes.functional import QuantState, dequantize_4bit

        codes = torch.from_numpy(self.codes.read().copy())
        if "SCB" in self.parts:
            values = _int8_values(codes, torch.from_numpy(widened(self.parts["SCB"].read()).copy()))
        else:
            stored = {name: torch.from_numpy(tensor.read().copy()) for name, tensor in self.parts.items()}
            state = QuantState.from_dict(stored, device=torch.device("cpu"))
            state.dtype = torch.float32
            values = dequantize_4bit(codes, state)
        found = values.reshape(self.shape).numpy()
        return found if part is None else found[part]


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint, those that bitsandbytes packed as what they stand for.

    Args:
        tensors: As stored: codes, and beside each what describes it.

    Returns:
        The weights alone.
    """
    found = dict(tensors)
    for name, tensor in tensors.items():
        if STATE in name:
            weight = name.partition(STATE)[0]
            parts = {
                other.removeprefix(f"{weight}."): found.pop(other) for other in list(found) if _beside(other, weight)
            }
            shape = json.loads(bytes(tensor.read()))["shape"]
            found[weight] = PackedTensor(tensors[weight], parts, tuple(shape))
        elif name.endswith(".SCB"):
            weight = name.removesuffix("SCB") + "weight"
            found.pop(f"{weight}_format", None)
            found[weight] = PackedTensor(tensors[weight], {"SCB": found.pop(name)}, tensors[weight].shape)
    return found


def rounded(weights: np.ndarray, packing: Packing) -> np.ndarray:
    """What is left of a matrix after it was packed: quantized and dequantized.

    Args:
        weights: Shape (d_out, d_in), floats, or the bits of bf16 as uint16.
        packing: As bitsandbytes loads a model: `nf4` in blocks of 64, `nf4-double` with quantized
            scales too, `int8` row by row without outlier columns.

    Returns:
        float32, shape of `weights`.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    values = torch.from_numpy(np.array(widened(weights), dtype=np.float32, order="C"))
    if packing == "int8":
        scales = values.abs().amax(dim=1)
        codes = torch.round(values * (127 / scales.clamp(min=1e-38))[:, None]).to(torch.int8)
        return _int8_values(codes, scales).numpy()
    packed, state = quantize_4bit(values, quant_type="nf4", compress_statistics=packing == "nf4-double")
    return np.asarray(dequantize_4bit(packed, state).numpy())


def _beside(name: str, weight: str) -> bool:
    return name.startswith(f"{weight}.") and name != weight


def _int8_values(codes: Any, scales: Any) -> Any:
    return codes.float() * (scales.float() / 127)[:, None]
