"""How far the backward pass goes, and what it recomputes.

Gradients are needed from the loss down to the lowest block that holds something trained, and autograd stops there by
itself as long as nothing below asks for them. The usual way to recompute activations does ask: transformers and PEFT
hang a hook on the embeddings whose output then requires gradients, so that backward runs, and recomputes, through every
frozen block below. Here recomputation is switched on after the model was adapted, and without that hook: checkpoints
that are not reentrant need no gradient at their inputs, and a block that nothing flows through saves nothing and
computes nothing twice.

What is said of a model is seen in a forward pass, not deduced from names: a block is passed where its output requires a
gradient. So it holds for quantized bases, for encoders and decoders, for tied embeddings and for methods that train at
the bottom.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from spectral_ft.errors import ConfigError


@dataclass
class BackwardPath:
    """The blocks of a model, and those that backward runs through; filled by a forward pass."""

    blocks: list[str]
    """Module names, in the order in which they run."""
    passed: list[str] = field(default_factory=list)
    """Of the blocks whose output requires a gradient, in the same order."""

    @property
    def sentence(self) -> str:
        """How many blocks, and from which one up."""
        if not self.passed:
            return f"backward runs through none of the {len(self.blocks)} blocks"
        return f"backward runs through {len(self.passed)} of {len(self.blocks)} blocks, from {self.passed[0]} up"


@contextmanager
def watched_backward(model: torch.nn.Module) -> Iterator[BackwardPath]:
    """See through which blocks the backward pass of the next forward passes would run.

    Args:
        model: Adapted; hooks are on its blocks inside the context.

    Yields:
        What was seen; empty before the first forward pass with gradients.
    """
    core = pretrained(model)  # which has the names of the checkpoint
    blocks = {name: module for name, module in core.named_modules() if isinstance(module, GradientCheckpointingLayer)}
    path = BackwardPath(list(blocks))
    seen: set[str] = set()

    def note(name: str, output: Any) -> None:
        tensors = output if isinstance(output, tuple) else (output,)
        if any(isinstance(tensor, torch.Tensor) and tensor.requires_grad for tensor in tensors):
            seen.add(name)
            path.passed = [block for block in path.blocks if block in seen]

    def hook(name: str) -> Any:
        return lambda module, inputs, output: note(name, output)

    handles = [module.register_forward_hook(hook(name)) for name, module in blocks.items()]
    try:
        yield path
    finally:
        for handle in handles:
            handle.remove()


def recompute_activations(model: torch.nn.Module) -> None:
    """Recompute the activations of every block that backward runs through, and of no other.

    Args:
        model: Adapted; a PEFT model or a plain one.

    Raises:
        ConfigError: If its architecture cannot.
    """
    core = pretrained(model)
    if not core.supports_gradient_checkpointing:
        raise ConfigError(
            f"{type(core).__name__} cannot recompute activations: set training.activation_checkpointing=false."
        )
    core.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    core.disable_input_require_grads()
    for block in core.modules():
        if isinstance(block, GradientCheckpointingLayer):
            for module in block.modules():
                if module is not block and hasattr(module, "gradient_checkpointing"):
                    # T5's attention lets its position bias require a gradient where this is set, frozen or not.
                    module.gradient_checkpointing = False  # type: ignore[assignment]


def pretrained(model: torch.nn.Module) -> PreTrainedModel:
    """The base model inside an adapted one.

    Args:
        model: Adapted, by PEFT or in place.

    Returns:
        The base, its modules as they were adapted.
    """
    unwrap = getattr(model, "get_base_model", None)
    return cast(PreTrainedModel, unwrap() if unwrap else model)
