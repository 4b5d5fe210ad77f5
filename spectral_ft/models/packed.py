"""Weights that bitsandbytes has packed into 4 or 8 bits: what they stand for, and what packing costs.

A packed tensor is no matrix: its bytes are codes, and a spectrum of them would mean nothing. It is
analysed only on request, after it was dequantized.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from spectral_ft.bfloat16 import widened
from spectral_ft.errors import CheckpointError
from spectral_ft.models.tensors import Contents, Tensor

Packing = Literal["nf4", "nf4-double", "int8"]
PACKINGS: tuple[Packing, ...] = ("nf4", "nf4-double", "int8")

STATE = "quant_state.bitsandbytes__"
"""What the tensor is called, after a 4-bit weight's name, that has the weight's shape and type."""
_BESIDE = re.compile(
    rf"(?P<weight>.+\.weight)[._](?P<part>(?:nested_)?(?:absmax|quant_map)|{re.escape(STATE)}.+|format)"
)


@dataclass(frozen=True)
class PackedTensor:
    """A packed tensor of a checkpoint that reads as what it stands for."""

    codes: Tensor
    parts: Mapping[str, Tensor]
    """What bitsandbytes stored beside it, under its own names."""
    shape: tuple[int, ...]
    dtype: str = "F32"
    is_float: bool = True
    is_packed: bool = True

    def read(self, part: int | None = None) -> np.ndarray:
        """Dequantize.

        Args:
            part: Index along the first side; None takes all.

        Returns:
            float32, its shape.

        Raises:
            CheckpointError: If what describes the codes is incomplete or damaged.
        """
        import torch
        from bitsandbytes.functional import QuantState, dequantize_4bit

        codes = torch.from_numpy(self.codes.read().copy())
        try:
            if "SCB" in self.parts:
                values = _int8_values(codes, torch.from_numpy(widened(self.parts["SCB"].read()).copy()))
            else:
                stored = {name: torch.from_numpy(tensor.read().copy()) for name, tensor in self.parts.items()}
                state = QuantState.from_dict(stored, device=torch.device("cpu"))
                state.dtype = torch.float32
                values = dequantize_4bit(codes, state)
        except (KeyError, ValueError, RuntimeError, AssertionError) as error:
            raise CheckpointError(
                f"it cannot be dequantized, since what describes it is damaged: {error!r}."
            ) from error
        found = values.reshape(self.shape).numpy()
        return found if part is None else found[part]


def unpacked(contents: Contents) -> Contents:
    """A checkpoint in which the weights that bitsandbytes packed are what they stand for.

    Args:
        contents: As stored: codes, and beside each what describes it.

    Returns:
        The weights alone. What is wrong with a description is a fault of its weight.
    """
    faults = {(_described(name) or (name, ""))[0]: fault for name, fault in contents.faults.items()}
    faults |= contents.faults
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in contents.tensors.items():
        if (described := _described(name)) is None:
            found[name] = tensor
        else:
            weight, part = described
            parts[weight][part] = tensor
    for weight, beside in parts.items():
        state = next((tensor for part, tensor in beside.items() if part.startswith(STATE)), None)
        if weight in found and state is not None:
            try:
                shape = tuple(map(int, json.loads(bytes(state.read()))["shape"]))
            except (ValueError, KeyError, TypeError, CheckpointError) as error:
                faults[weight] = f"{weight} cannot be dequantized, since what describes it is damaged: {error!r}."
                continue
            found[weight] = PackedTensor(found[weight], beside, shape)
        elif weight in found and "SCB" in beside:
            found[weight] = PackedTensor(found[weight], {"SCB": beside["SCB"]}, found[weight].shape)
    return Contents({name: tensor for name, tensor in found.items() if name not in faults}, faults)


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


def _described(name: str) -> tuple[str, str] | None:
    # The weight that a tensor describes and what it is called there; None for a weight itself.
    if name.endswith(".SCB"):
        return name.removesuffix("SCB") + "weight", "SCB"
    match = _BESIDE.fullmatch(name)
    return (match["weight"], match["part"]) if match else None


def _int8_values(codes: Any, scales: Any) -> Any:
    return codes.float() * (scales.float() / 127)[:, None]
