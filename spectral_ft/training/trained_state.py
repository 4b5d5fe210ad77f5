"""What training has changed so far, in a form of our own, whichever method trains: ties and allocators are kept."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from spectral_ft.errors import RunError

WEIGHTS, STATE = "trained.safetensors", "method.pt"


def trained_tensors(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """What training changes, or changed: adapters that a later round froze have been trained too.

    Args:
        model: Adapted.

    Returns:
        Name to parameter.
    """
    return {name: p for name, p in model.named_parameters() if p.requires_grad or ".lora_" in name}


def save_trained(model: torch.nn.Module, state: dict[str, Any], checkpoint: Path) -> None:
    """Write what training has changed so far.

    Args:
        model: Adapted.
        state: What the method keeps beside the weights.
        checkpoint: Folder; made.
    """
    checkpoint.mkdir(parents=True, exist_ok=True)
    save_file({name: p.detach().contiguous() for name, p in trained_tensors(model).items()}, checkpoint / WEIGHTS)
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
    kept = trained_tensors(model)
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
