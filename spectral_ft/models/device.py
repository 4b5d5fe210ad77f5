"""Where models run, and in which number format.

Weights, forward passes and the estimate of memory all ask here, so that none of them decides for itself.
"""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Dtype = Literal["auto", "float32", "bfloat16"]
"""The option `model.dtype`."""


def compute_device() -> "torch.device":
    """Where models run: the first CUDA device, or the CPU.

    Returns:
        The device.
    """
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_dtype(dtype: Dtype, device: "torch.device") -> "torch.dtype":
    """The dtype of the unquantized weights.

    Args:
        dtype: The option.
        device: Where the model will run.

    Returns:
        For `auto`, float32 on a CPU and bfloat16 elsewhere.
    """
    import torch

    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def autocast_dtype(dtype: Dtype, device: "torch.device") -> "torch.dtype | None":
    """The dtype that training computes products in, where it is another one than the weights'.

    Args:
        dtype: The option.
        device: Where the model will run.

    Returns:
        bfloat16 where the weights are in it on a GPU that has it, for the adapters, which are in float32; None
        elsewhere: who asked for float32 gets float32.
    """
    import torch

    asked = device.type != "cpu" and resolve_dtype(dtype, device) == torch.bfloat16
    return torch.bfloat16 if asked and torch.cuda.is_bf16_supported() else None
