"""Peak memory, of the device where there is one, otherwise of the process."""

import resource

import torch


def peak_memory_bytes() -> int:
    """The most memory held so far.

    Returns:
        Bytes: allocated on the CUDA device, or the process's largest resident set.
    """
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
