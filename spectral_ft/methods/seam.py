"""What every method says of itself, and what it hands to training."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from spectral_ft.types import MatrixShape

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Takes(NamedTuple):
    """What a method can be composed with."""

    ranks: Literal["each", "one", "whole", "none"]
    """Of a policy: each matrix's own rank, a selection of one rank, a selection of whole matrices, or nothing."""
    groups: bool = False
    """Whether matrices may share factors."""
    quantized: bool = True
    """Whether the base may be."""
    checkpointing: bool = True
    """Whether activations may be recomputed in backward."""
    rounds: bool = False
    """Whether ranks may change in mid-training."""
    heads: bool = True
    """Whether a classifier's head can be trained beside."""


class BaseModel(NamedTuple):
    """The model that is adapted, as far as counting needs it."""

    matrices: tuple[MatrixShape, ...]
    parameters: int
    """Tied ones once."""
    heads: tuple[str, ...]
    """Module names of what is trained beside any adapter: a classifier's head."""
    head_parameters: int
    task_type: str
    """PEFT's name of what the model is for: CAUSAL_LM, SEQ_2_SEQ_LM, SEQ_CLS."""
    blueprint: "Callable[[], PreTrainedModel]"
    """The model without weights."""
    obstacles: "Callable[[bool], Mapping[str, str]]" = lambda whole: {}
    """Matrix to the reason why it cannot have an adapter; with True, why it cannot be trained as a whole."""


def nothing(step: int) -> None:
    """Do nothing after a step.

    Args:
        step: Number of finished optimizer steps.
    """
    del step


def nothing_to_restore(state: dict[str, Any]) -> None:
    """Restore nothing.

    Args:
        state: Empty.
    """
    del state


class Adapted(NamedTuple):
    """A model with what a method trains on it."""

    model: "torch.nn.Module"
    save: Callable[[Path], None]
    """Writes what was trained into a folder."""
    after_step: Callable[[int], None] = nothing
    """Called after each optimizer step, with the number of finished ones, while gradients are still there."""
    state: Callable[[], dict[str, Any]] = dict
    """What must be kept beside the weights when training is cut: tensors and plain values."""
    restore: Callable[[dict[str, Any]], None] = nothing_to_restore
    """Takes what `state` gave."""
