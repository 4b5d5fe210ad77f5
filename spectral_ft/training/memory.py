"""Peak memory, of the process and of its device."""

import resource

import torch


def peak_process_bytes() -> int:
    """The most memory that this process held so far, whatever for; a process cannot forget that.

    Returns:
        Bytes, resident.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_device_peak() -> None:
    """Begin anew to note what this process holds on its CUDA device; without a device nothing happens."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_device_bytes() -> int | None:
    """The most memory that this process held on its CUDA device since `forget_device_peak`.

    Returns:
        Bytes, allocated; None without a device.
    """
    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else None
