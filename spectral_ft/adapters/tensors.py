"""Full fine-tuning, of everything or of some matrices: what was trained, as `trained.safetensors`."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from spectral_ft.adapters.soundness import check_finite
from spectral_ft.errors import CheckpointError, PlanError

FILE = "trained.safetensors"


def train_tensors(model: PreTrainedModel, names: Sequence[str] | None, *, heads: Sequence[str] = ()) -> PreTrainedModel:
    """Let parameters be trained.

    Args:
        model: Frozen base.
        names: Of matrices, as a plan has them: their weights are trained; None takes every parameter.
        heads: Of modules that are trained as a whole.

    Returns:
        The same model.

    Raises:
        PlanError: If one of them is no module with a plain weight.
    """
    if names is None:
        model.requires_grad_(True)
        return model
    modules = dict(model.named_modules())
    for name in names:
        weight = getattr(modules.get(name), "weight", None)
        if not isinstance(weight, torch.Tensor) or not weight.is_floating_point():
            raise PlanError(f"{name} has no weight of its own that could be trained in full precision.")
        weight.requires_grad_(True)
    for name in heads:
        model.get_submodule(name).requires_grad_(True)
    return model


def save_tensors(model: torch.nn.Module, folder: Path) -> None:
    """Write what is trained.

    Args:
        model: As `train_tensors` left it.
        folder: Where to; made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trained = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    save_file(trained, folder / FILE)


def open_tensors(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Put trained tensors into their base.

    Args:
        model: The base; changed in place.
        folder: As `save_tensors` wrote it.

    Returns:
        The same model, in evaluation mode.

    Raises:
        CheckpointError: If the file is damaged, or does not fit the base.
    """
    try:
        trained = load_file(folder / FILE)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / FILE} cannot be read: {error}") from error
    check_finite(trained, folder / FILE)
    parameters = dict(model.named_parameters())
    for name, tensor in trained.items():
        there = parameters.get(name)
        if there is not None and not there.is_floating_point():
            raise CheckpointError(
                f"{folder / FILE} holds {name} {tuple(tensor.shape)}, which the base has quantized: open it with "
                "quantization=none."
            )
        if there is None or there.shape != tensor.shape:
            raise CheckpointError(
                f"{folder / FILE} holds {name} {tuple(tensor.shape)}, the base has "
                f"{'no such parameter' if there is None else tuple(there.shape)}: it was trained on another model."
            )
        with torch.no_grad():
            there.copy_(tensor)
    return model.eval()
