"""What one contender costs: operations, saved activations, resident memory, and seconds step by step."""

import ctypes
import gc
import hashlib
import json
import sys
import time
import weakref
from itertools import accumulate
from pathlib import Path
from typing import Any, TextIO

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

MIB = 2**20


class _Kept:
    # Of one saved tensor: gone when autograd lets it go.
    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def saved_activations(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """What a forward pass leaves for backward.

    What is saved and let go again inside the forward pass does not count, nor do parameters and buffers.

    Args:
        model: In training mode.
        batch: With labels.

    Returns:
        MiB of different storages.
    """
    kept: weakref.WeakSet[_Kept] = weakref.WeakSet()

    def pack(tensor: torch.Tensor) -> _Kept:
        one = _Kept(tensor)
        kept.add(one)
        return one

    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one.tensor):
        loss = model(**batch).loss
    storages = {one.tensor.untyped_storage().data_ptr(): one.tensor.untyped_storage().nbytes() for one in list(kept)}
    del loss
    return sum(size for place, size in storages.items() if place not in own) / MIB


def operations(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """Of one forward and backward pass.

    Args:
        model: In training mode; its gradients are left as they would be after the pass.
        batch: With labels.

    Returns:
        GFLOP of matrix products and attention, what is computed again included.
    """
    with FlopCounterMode(display=False) as counter:
        model(**batch).loss.backward()
    return counter.get_total_flops() / 1e9


def settle_memory() -> float:
    """Give freed memory back, and let the kernel forget the peak so far.

    Returns:
        Resident MiB.
    """
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


def peak_memory() -> float:
    """The largest resident set since `settle_memory`.

    Returns:
        MiB.
    """
    return _resident("VmHWM")


def peak_of_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]) -> float:
    """What training holds at most: adapters, optimizer state, and what torch allocates in one more step.

    Followed from allocation to allocation, so that equal steps have equal peaks, which the resident set of a process
    has not.

    Args:
        model: In training mode, without gradients.
        optimizer: With its state.
        batch: With labels.

    Returns:
        MiB.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        model(**batch).loss.backward()
        optimizer.step()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    state = [value for values in optimizer.state.values() for value in values.values()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    held = [tensor.nbytes for tensor in (*trained, *state) if isinstance(tensor, torch.Tensor)]
    return (max(alive) + sum(held)) / MIB


def _resident(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def digest(model: torch.nn.Module) -> str:
    """Of the values of what is trained, by name.

    Args:
        model: Adapted.

    Returns:
        Hexadecimal.
    """
    found = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            found.update(name.encode() + parameter.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


class Turns(TrainerCallback):
    """Trains a few steps whenever a line comes in, and says what each took.

    Args:
        ends: Numbers of the steps after which it is another's turn.
        out: Where to say it.
    """

    def __init__(self, ends: list[int], out: TextIO) -> None:
        self._ends = set(ends)
        self._last = max(ends)
        self._out = out
        self._cpu: list[float] = []
        self._wall: list[float] = []
        self._since = (0.0, 0.0)
        self.optimizer: torch.optim.Optimizer
        """Of the training that it watches."""

    def say(self, **found: Any) -> None:
        """Send one message.

        Args:
            **found: What it holds.
        """
        print(json.dumps(found), file=self._out, flush=True)

    def wait(self) -> None:
        """Until a line comes in; the watch starts then."""
        if not sys.stdin.readline():
            sys.exit("nobody asks for the next steps")
        self._since = (time.process_time(), time.perf_counter())

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """All is ready."""
        self.optimizer = kwargs["optimizer"]
        self.say(digest=digest(kwargs["model"]))
        self.wait()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step is done, from the end of the one before."""
        now = (time.process_time(), time.perf_counter())
        self._cpu.append(now[0] - self._since[0])
        self._wall.append(now[1] - self._since[1])
        self._since = now
        if state.global_step in self._ends:
            self.say(cpu=self._cpu, wall=self._wall)
            self._cpu, self._wall = [], []
            if state.global_step < self._last:
                self.wait()
