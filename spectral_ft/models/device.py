"""Where models run, and in which number format.

Weights, forward passes and the estimate of memory all ask here, so that none of them decides for itself.
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""The option `model.dtype`."""
BFLOAT16_GPU = 8
"""Major compute capability from which a GPU multiplies bfloat16 (Ampere; V100 has 7.0 and T4 7.5)."""
log = logging.getLogger(__name__)


def compute_device() -> "torch.device":
    """Where models run: this process's CUDA device, or the CPU.

    Returns:
        The device; a CUDA device has its index, by which accelerate knows that a packed model is where it belongs.
    """
    import torch

    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def resolve_dtype(dtype: Dtype, device: "torch.device") -> "torch.dtype":
    """The dtype of the unquantized weights.

    Args:
        dtype: The option.
        device: Where the model will run.

    Returns:
        For `auto`, float32 on a CPU, bfloat16 on a GPU that multiplies it, float16 on an older one.
    """
    import torch

    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
    if device.type == "cpu":
        return torch.float32
    if device.type == "cuda" and not _has_bfloat16(device):
        _tell_of_float16(device)
        return torch.float16
    return torch.bfloat16


def autocast_dtype(dtype: Dtype, device: "torch.device") -> "torch.dtype | None":
    """The dtype that training and scoring compute products in, if it is another one than the adapters'.

    Args:
        dtype: The option.
        device: Where the model will run.

    Returns:
        That of the weights on a GPU, if it has 16 bits and the GPU multiplies it: the adapters are in float32. None
        elsewhere: who asked for float32 gets float32.
    """
    import torch

    resolved = resolve_dtype(dtype, device)
    if device.type == "cpu" or resolved == torch.float32:
        return None
    if resolved == torch.bfloat16 and device.type == "cuda" and not _has_bfloat16(device):
        return None
    return resolved


def autocast(dtype: "torch.dtype | None", device: "torch.device") -> AbstractContextManager[None]:
    """The context in which products are computed in one dtype.

    Args:
        dtype: As `autocast_dtype` gives it; None changes nothing.
        device: Where the model runs.

    Returns:
        The context.
    """
    import torch

    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has no memory left.

    Args:
        error: Of torch, or of Python.

    Returns:
        True for CUDA's, for that of torch's allocator on a CPU, and for `MemoryError`.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        sign in str(error) for sign in ("CUDA out of memory", "DefaultCPUAllocator: can't allocate memory")
    )


def _has_bfloat16(device: "torch.device") -> bool:
    # torch.cuda.is_bf16_supported counts GPUs that emulate it, slowly.
    import torch

    return torch.cuda.get_device_capability(device)[0] >= BFLOAT16_GPU


@cache
def _tell_of_float16(device: "torch.device") -> None:
    import torch

    log.info(
        "%s multiplies no bfloat16, so model.dtype=auto is float16: set model.dtype=float32 if the loss overflows",
        torch.cuda.get_device_name(device),
    )
