"""Whether a model's logits are what its head makes of its norm's output, seen in one forward pass.

A loss says little of that: while logits are small, one over a vocabulary is the vocabulary's logarithm whatever is done
to them. So tensors are compared, and to the last bit where nothing may have been computed in between.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch

from spectral_ft.training.held_out import evaluating


class Seen(NamedTuple):
    """What goes in and out of norm and head, and what the model makes of it; a module that was not called is absent."""

    given: Mapping[torch.nn.Module, torch.Tensor]
    made: Mapping[torch.nn.Module, torch.Tensor]
    logits: torch.Tensor
    loss: float


@torch.no_grad()
def seen_by(
    model: torch.nn.Module, batch: Mapping[str, torch.Tensor], head: torch.nn.Linear, norm: torch.nn.Module | None
) -> Seen:
    """Run a model in evaluation mode, and see what its norm and head do.

    Args:
        model: Adapted or not.
        batch: With labels.
        head: Of the model.
        norm: Before it; None for none.

    Returns:
        What was seen.
    """
    given: dict[torch.nn.Module, torch.Tensor] = {}
    made: dict[torch.nn.Module, torch.Tensor] = {}

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if inputs:
            given[module], made[module] = inputs[0], output

    handles = [module.register_forward_hook(note) for module in (norm, head) if module is not None]
    try:
        with evaluating(model):
            outputs = model(**on_device(model, batch))
    finally:
        for handle in handles:
            handle.remove()
    return Seen(given, made, outputs.logits, float(outputs.loss))


@torch.no_grad()
def is_product(seen: Seen, head: torch.nn.Linear, norm: torch.nn.Module | None) -> bool:
    """Whether the logits are the head's product, and the head's input the norm's output, with nothing in between.

    Args:
        seen: Of a model.
        head: Without a bias.
        norm: None asks of the head alone.

    Returns:
        The answer.
    """
    if head not in seen.given or not _equal(seen.made[head], seen.logits):
        return False
    if not _close(torch.nn.functional.linear(seen.given[head], head.weight), seen.made[head]):
        return False
    return norm is None or (norm in seen.made and _equal(seen.made[norm], seen.given[head]))


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.to(other.dtype), other)  # some widen their logits


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    rounding = torch.finfo(other.dtype).eps
    return torch.allclose(one.to(other.dtype), other, rtol=rounding, atol=rounding * float(other.abs().max()))


def on_device(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch where the model is.

    Args:
        model: On one device.
        batch: Of tensors.

    Returns:
        The batch there.
    """
    device = next(model.parameters()).device
    return {name: value.to(device) for name, value in batch.items()}
