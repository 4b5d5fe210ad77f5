"""An adapter on its base for as long as it is asked something, and off again: one loaded base serves many."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from spectral_ft.adapters import tensors
from spectral_ft.adapters.opening import open_adapter
from spectral_ft.errors import CheckpointError


@contextmanager
def wearing(model: PreTrainedModel, folder: Path) -> Iterator[torch.nn.Module]:
    """The adapted model for the time of a block; then the base is as it was, to the last bit.

    Whatever an adapter is, putting it on exchanges modules and attributes, which are remembered here, or overwrites
    weights, of which a copy is kept in the machine's memory.

    Args:
        model: The base.
        folder: Of what was trained on it.

    Yields:
        The adapted model, in evaluation mode.

    Raises:
        CheckpointError: If the folder holds no adapter, is damaged, or does not fit the base.
    """
    attributes = [(module, {name: copy.copy(value) for name, value in _plain(module)}) for module in model.modules()]
    weights = {name: model.get_parameter(name).detach().cpu().clone() for name in _overwritten(model, folder)}
    try:
        yield open_adapter(model, folder)
    finally:
        for module, before in attributes:
            for name in [name for name, _ in _plain(module) if name not in before]:
                del module.__dict__[name]
            module.__dict__.update(before)
        with torch.no_grad():
            for name, weight in weights.items():
                model.get_parameter(name).copy_(weight)


def _plain(module: torch.nn.Module) -> list[tuple[str, Any]]:
    # What a module holds itself: its dictionaries of children, parameters and hooks are copied, their members are not.
    return [(name, value) for name, value in vars(module).items() if isinstance(value, dict | bool | type(None))]


def _overwritten(model: PreTrainedModel, folder: Path) -> list[str]:
    if not (folder / tensors.FILE).is_file():
        return []
    known = {name for name, _ in model.named_parameters()}
    try:
        with safe_open(folder / tensors.FILE, framework="pt") as file:
            return sorted(known.intersection(file.keys()))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / tensors.FILE} cannot be read: {error}") from error
