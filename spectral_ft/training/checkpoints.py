"""Checkpoints in mid-training: what was trained so far, in our own form, whichever method trains.

checkpoints/checkpoint-STEP/   trained.safetensors, method.pt, and the Trainer's optimizer, scheduler, random states
"""

import json
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from spectral_ft.errors import RunError
from spectral_ft.storage import write_json

log = logging.getLogger(__name__)
COMPLETE = "complete.json"
"""Written last into a checkpoint: without it the checkpoint was cut while it was written."""
WEIGHTS, STATE = "trained.safetensors", "method.pt"


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; cut ones are removed.

    Args:
        folder: Of the checkpoints.

    Returns:
        Its folder, or None.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    while found:
        newest = found.pop()
        if (newest / COMPLETE).is_file():
            return newest
        log.warning("%s was cut while it was written; taking the one before it", newest.name)
        shutil.rmtree(newest)
    return None


def remove_checkpoints(folder: Path) -> None:
    """Remove what only a cut training would need.

    Args:
        folder: The run's.
    """
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def mark_whole(checkpoint: Path, *, step: int, seconds: float) -> None:
    """Say that all of a checkpoint is written.

    Args:
        checkpoint: Its folder.
        step: Number of finished optimizer steps.
        seconds: In the training loop so far.
    """
    write_json(checkpoint / COMPLETE, {"step": step, "seconds": seconds})


def seconds_of(checkpoint: Path | None) -> float:
    """How long the training took up to a checkpoint.

    Args:
        checkpoint: Its folder; None for none.

    Returns:
        Seconds in the training loop.

    Raises:
        RunError: If the file that says so is damaged.
    """
    if checkpoint is None:
        return 0.0
    try:
        return float(json.loads((checkpoint / COMPLETE).read_text())["seconds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{checkpoint / COMPLETE} is damaged ({error!r}): remove {checkpoint} and call again."
        ) from error


def save_trained(model: torch.nn.Module, state: dict[str, Any], checkpoint: Path) -> None:
    """Write what training has changed so far.

    Args:
        model: Adapted.
        state: What the method keeps beside the weights.
        checkpoint: Folder; made.
    """
    checkpoint.mkdir(parents=True, exist_ok=True)
    save_file({name: p.detach().contiguous() for name, p in _kept(model).items()}, checkpoint / WEIGHTS)
    torch.save(state, checkpoint / STATE)


def load_trained(model: torch.nn.Module, checkpoint: Path) -> dict[str, Any]:
    """Put back what training had changed.

    Args:
        model: Adapted, as it was at that step.
        checkpoint: As `save_trained` wrote it.

    Returns:
        What the method kept beside the weights.

    Raises:
        RunError: If the checkpoint is damaged, or of another model.
    """
    stored = _read(checkpoint / WEIGHTS, load_file)
    state = _read(checkpoint / STATE, partial(torch.load, weights_only=True))
    kept = _kept(model)
    if stored.keys() != kept.keys() or any(stored[name].shape != p.shape for name, p in kept.items()):
        raise RunError(
            f"{checkpoint} holds {len(stored)} trained tensors, which are not the {len(kept)} of this run: remove the "
            "folder above it to train anew."
        )
    with torch.no_grad():
        for name, parameter in kept.items():
            parameter.copy_(stored[name])
    return dict(state)


def _read(path: Path, reader: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    try:
        return reader(path)
    except (OSError, EOFError, RuntimeError, UnpicklingError, SafetensorError) as error:
        raise RunError(
            f"{path} is damaged ({error!r}): remove {path.parent} and call again; the training goes on from the "
            "checkpoint before."
        ) from error


def _kept(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    # Adapters that a later round froze have been trained too.
    return {name: p for name, p in model.named_parameters() if p.requires_grad or ".lora_" in name}
