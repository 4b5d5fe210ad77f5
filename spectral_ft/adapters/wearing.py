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
    weights = {name: model.get_parameter(name).detach().cpu().clone() for name in _overwritten(model, folder)}
    with as_before(model):
        try:
            yield open_adapter(model, folder)
        finally:
            with torch.no_grad():
                for name, weight in weights.items():
                    model.get_parameter(name).copy_(weight)


@contextmanager
def as_before(model: PreTrainedModel) -> Iterator[None]:
    """Take off a model whatever a block puts on it: modules, hooks, modes, attributes, `requires_grad`, gradients.

    Args:
        model: Changed in place meanwhile. Values of weights that the block changes stay changed.

    Yields:
        Nothing.
    """
    modules = [(module, type(module), _copied(module)) for module in model.modules()]
    parameters = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    configs = [(one, _copied(one)) for one in (model.config, getattr(model, "generation_config", None)) if one]
    try:
        yield
    finally:
        for module, kind, before in modules:
            module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update(before)
        for config, before in configs:
            config.__dict__.clear()
            config.__dict__.update(before)
        for parameter, required in parameters:
            parameter.requires_grad_(required)
            parameter.grad = None


def _copied(owner: Any) -> dict[str, Any]:
    # What it holds itself: containers of children, parameters, buffers and hooks are copied, their members are not.
    return {
        name: copy.copy(value) if isinstance(value, dict | list | set) else value for name, value in vars(owner).items()
    }


def _overwritten(model: PreTrainedModel, folder: Path) -> list[str]:
    if not (folder / tensors.FILE).is_file():
        return []
    known = {name for name, _ in model.named_parameters()}
    try:
        with safe_open(folder / tensors.FILE, framework="pt") as file:
            return sorted(known.intersection(file.keys()))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / tensors.FILE} cannot be read: {error}") from error
