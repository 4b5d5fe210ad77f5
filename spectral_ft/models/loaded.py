"""The block matrices of a model that is in memory already."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_ft.models.block_matrices import BlockMatrices
from spectral_ft.models.tensors import Contents, Tensor
from spectral_ft.models.torch_files import TorchTensor

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class PackedParameter:
    """A parameter that bitsandbytes has packed."""

    parameter: Any
    dequantize: bool
    scales: Any = None
    """Of the rows of an 8-bit one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it stands for."""
        state = getattr(self.parameter, "quant_state", None)
        return tuple(state.shape if state is not None else self.parameter.shape)

    @property
    def dtype(self) -> str:
        """Torch's name of the codes' type."""
        return "F32" if self.dequantize else str(self.parameter.dtype)

    @property
    def is_float(self) -> bool:
        """Whether `read` gives numbers."""
        return self.dequantize

    @property
    def is_packed(self) -> bool:
        """Always: (d_out, d_in), whatever the architecture's files have."""
        return True

    def read(self, part: int | None = None) -> np.ndarray:
        """Dequantize.

        Args:
            part: Index along the first side; None takes all.

        Returns:
            float32, its shape.
        """
        from bitsandbytes.functional import dequantize_4bit

        codes, state = self.parameter.data, getattr(self.parameter, "quant_state", None)
        if state is None:
            values = codes.float() * (self.scales.float() / 127)[:, None]
        else:
            values = dequantize_4bit(codes, state).float()
        return TorchTensor(values.reshape(self.shape)).read(part)


def loaded_matrices(model: "PreTrainedModel", *, dequantize: bool = False) -> BlockMatrices:
    """The block matrices of a loaded model; a tied parameter counts once.

    Args:
        model: With or without PEFT adapters, whose own matrices are left out.
        dequantize: Read 4-bit and 8-bit parameters as what they stand for; otherwise they are
            refused.

    Returns:
        Views of the parameters, copied to the host one at a time.
    """
    from spectral_ft.models.modules import ADDED, base_name, layout_of

    # bitsandbytes moves the scales of an 8-bit weight into its module at the first product.
    moved: dict[int, Any] = {
        id(module.weight): scales
        for module in model.modules()
        if (scales := getattr(getattr(module, "state", None), "SCB", None)) is not None
    }
    tensors: dict[str, Tensor] = {
        base_name(name): _tensor(parameter, moved.get(id(parameter)), dequantize)
        for name, parameter in model.named_parameters()
        if not any(mark in name for mark in ADDED)
    }
    origin = f"the loaded {type(model).__name__}"
    return BlockMatrices(
        origin,
        str(model.config.model_type),
        Contents(tensors, {}),
        find=lambda shapes, codes, packed: layout_of(model, shapes, codes=codes, packed=packed),
    )


def _tensor(parameter: "torch.nn.Parameter", moved: "torch.Tensor | None", dequantize: bool) -> Tensor:
    scales = moved if getattr(parameter, "SCB", None) is None else getattr(parameter, "SCB", None)
    if getattr(parameter, "quant_state", None) is not None or scales is not None:
        return PackedParameter(parameter, dequantize, scales)
    return TorchTensor(parameter.detach())
