"""Peak memory, of the process and of its device."""

import resource
from contextlib import suppress
from pathlib import Path

import torch

SELF = Path("/proc/self")


def peak_process_bytes() -> int:
    """The most memory that this process held since `forget_peaks`, whatever for.

    Returns:
        Bytes, resident; since its start where the system cannot forget (none but Linux can).
    """
    with suppress(OSError, StopIteration):
        lines = (SELF / "status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peaks() -> None:
    """Begin anew to note what this process holds, in memory and on its CUDA device.

    A process that trains one model after another, as a sweep's, would otherwise report the largest so far of each.
    """
    with suppress(OSError):
        (SELF / "clear_refs").write_text("5")  # proc(5): resets the peak resident set size
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_device_bytes() -> int | None:
    """The most memory that this process held on its CUDA device since `forget_peaks`.

    Returns:
        Bytes, allocated; None without a device.
    """
    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else None
