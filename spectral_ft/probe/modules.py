"""The linear modules that a probe watches, and a model that is left as it was found."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from spectral_ft.errors import CheckpointError, DataError, PlanError


def linear_modules(model: PreTrainedModel, names: Iterable[str]) -> dict[str, torch.nn.Module]:
    """Look up what is to be watched.

    Args:
        model: In memory; its linear modules may be quantized by bitsandbytes.
        names: Module paths.

    Returns:
        Name to module, each name once.

    Raises:
        PlanError: If a name is no linear module of the model.
    """
    known = _linear(model)
    for name in names:
        if name not in known:
            raise PlanError(
                f"{name} is no linear module of this {type(model).__name__}, so no calibration batch shows what it "
                f"reads or its gradient: leave it out. The model has {len(known)} linear modules, such as "
                f"{', '.join(list(known)[:2]) or 'none'}; experts that are stacked in one parameter are not among them."
            )
    return {name: known[name] for name in names}


def watchable(model: PreTrainedModel, names: Iterable[str]) -> list[str]:
    """Those of some matrices that a probe can look at.

    Args:
        model: In memory.
        names: Module paths.

    Returns:
        The names of linear modules; experts that are stacked in one parameter are none.
    """
    known = _linear(model)
    return [name for name in names if name in known]


def _linear(model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)}


def on_device(batch: Mapping[str, torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Bring a batch to where the model is.

    Args:
        batch: Arguments of the model's forward, labels among them.
        model: On one device.

    Returns:
        The batch.
    """
    return {key: value.to(model.device) for key, value in batch.items()}


def refuse_none(batches: object) -> None:
    """Check that there is something to look at.

    Args:
        batches: A sized collection.

    Raises:
        DataError: If it is empty.
    """
    if not batches:
        raise DataError("the probe got no calibration batch: give it at least one.")


def refuse_repacked(model: torch.nn.Module) -> None:
    """Check that gradients pass through a 4-bit model.

    Args:
        model: Any.

    Raises:
        CheckpointError: If a matrix is laid out for inference on a CPU, as bitsandbytes does it in place.
    """
    for name, module in model.named_modules():
        if getattr(_quant_state(module), "packing_format_for_cpu", False):
            raise CheckpointError(
                f"{name} was laid out anew for inference, which bitsandbytes does on this CPU when a 4-bit model is "
                "evaluated, and lets no gradient pass: load the model again for the probe."
            )


def evaluate(model: torch.nn.Module) -> None:
    """Put a model in evaluation mode, but for its 4-bit matrices, which know no dropout.

    In evaluation mode bitsandbytes lays those out anew, in place, on CPUs with bf16 units.

    Args:
        model: Any.
    """
    model.eval()
    for module in model.modules():
        if _quant_state(module) is not None:
            module.training = True


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside, each module's mode as before outside, whatever happens.

    Args:
        model: Any.

    Yields:
        Nothing.
    """
    modes = [(module, module.training) for module in model.modules()]
    evaluate(model)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _quant_state(module: torch.nn.Module) -> object:
    return getattr(getattr(module, "weight", None), "quant_state", None)


@contextmanager
def recomputed_blocks(model: PreTrainedModel) -> Iterator[set[torch.nn.Module]]:
    """Inside, the blocks keep nothing of a forward pass but their inputs, and backward computes them again.

    Args:
        model: In evaluation mode, in which transformers' own switch does nothing.

    Yields:
        Every module in such a block; none if the architecture cannot.
    """
    found = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    inner = {child for block in found for child in block.modules() if child is not block}
    blocks = (
        [block for block in found if block not in inner]
        if getattr(model, "supports_gradient_checkpointing", False)
        else []
    )
    before = [(block, vars(block).get("forward")) for block in blocks]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield {module for block in blocks for module in block.modules()}
    finally:
        for block, own in before:
            del block.forward
            if own is not None:
                block.forward = own
