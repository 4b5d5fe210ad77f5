"""Peak memory, of the process and of its device."""

import resource

import torch


def peak_process_bytes() -> int:
    """The most memory that this process held so far.

    Returns:
        Bytes, resident.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_device_bytes() -> int | None:
    """The most memory that this process held on its CUDA device so far.

    Returns:
        Bytes, allocated; None without a device.
    """
    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else None
