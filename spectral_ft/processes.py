"""The processes of one run: one, or as many as `torchrun` or `accelerate launch` started.

Stages before the training are done by the first process; the others wait, and then read what it wrote, since every
stage leaves a file. Training is done by all. Evaluation is done by the first.

What the launchers tell is in the environment: RANK, LOCAL_RANK, WORLD_SIZE (docs of torch.distributed).
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PATIENCE = timedelta(days=1)
"""How long the others wait for the first process: as long as the spectral pass of a large model may take."""

WRAPPERS = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DEEPSPEED",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
}
"""Variables by which accelerate's launcher tells its library what to put around a model, to what that is."""


class OtherProcessFailed(SystemExit):
    """The first process of this run failed, and has said why."""


def process_count() -> int:
    """How many processes work on this run.

    Returns:
        The number; 1 where no launcher started several.
    """
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_index() -> int:
    """Which of them this is.

    Returns:
        From 0.
    """
    return int(os.environ.get("RANK", "0"))


def wrapped_by() -> str | None:
    """What `accelerate launch` would put around the model of its own accord.

    Returns:
        Its name there; None where it leaves the model alone.
    """
    for variable, name in WRAPPERS.items():
        if os.environ.get(variable, "false").lower() == "true":
            return name
    return None


def is_first() -> bool:
    """Whether this process writes files, scores and talks.

    Returns:
        True in the first, or only, process.
    """
    return process_index() == 0


def meet() -> None:
    """Let the processes of this run know each other; with one process nothing happens."""
    import torch
    import torch.distributed as dist

    if process_count() == 1 or dist.is_initialized():
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)


def part() -> None:
    """Let the processes go: called when what they share is done."""
    import torch.distributed as dist

    if process_count() > 1 and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def first_process_first() -> Iterator[None]:
    """The first process runs the block alone; then the others run it, and find what it wrote.

    Yields:
        Nothing.

    Raises:
        OtherProcessFailed: In the others, where the first one failed.
    """
    if process_count() == 1:
        yield
        return
    if not is_first():
        if not _agreed(True):
            raise OtherProcessFailed(1)
        yield
        return
    try:
        yield
    except BaseException:
        _agreed(False)
        raise
    _agreed(True)


def totals(values: Sequence[float]) -> list[float]:
    """Sums over all processes.

    Args:
        values: Of this process, as many in each.

    Returns:
        The sums, the same in each.
    """
    return _reduced(values).tolist() if process_count() > 1 else list(values)


def _agreed(fine: bool) -> bool:
    # Whether no process says otherwise.
    return not _reduced([float(not fine)]).item()


def _reduced(values: Sequence[float]) -> "torch.Tensor":
    import torch
    import torch.distributed as dist

    meet()
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor)
    return tensor
