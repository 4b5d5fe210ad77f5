"""Whether a model keeps texts apart that lie end to end in one row.

The positions of packed texts restart at 0 with each of them. Most architectures build their attention mask from that,
some ignore it, and those learn from texts that have nothing to do with each other, without any error. So it is tried:
the logits of each of two made-up texts must be those that it has alone. A text that stands first cannot see the other,
hence the second decides.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch

from spectral_ft.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LENGTHS = (16, 8)
"""Tokens of the made-up texts."""
EXACT = 1e-3
"""Largest difference, relative to the largest logit, of a float32 model: rounding gives 1e-6, looking across 2e-3 and
up in random models, 0.7 and up in trained ones."""
ROUNDED = 0.2
"""The same of a model in 16 bits or with packed weights. Measured on SmolLM2-135M and the embedded model: rounding up
to 0.013 in bfloat16, 0.006 in nf4, 0.07 in int8, looking across 0.7 and up; between the two."""
_REMEDY = "use training.batching=random or length"


def check_boundaries(model: "PreTrainedModel") -> None:
    """Run two texts alone and packed, and compare.

    Call it on the model as it will be trained: an adapter that comes before the texts, as a prefix does, makes a model
    ignore positions that it would follow by itself.

    Args:
        model: A causal language model, with or without adapters; its modes are what they were afterwards.

    Raises:
        ConfigError: If the model takes no positions, or a text's logits depend on the one before it.
    """
    bare: PreTrainedModel = getattr(model, "get_base_model", lambda: model)()
    name = type(bare).__name__
    if not _takes_positions(bare):
        raise ConfigError(f"{name} takes no position_ids, by which packed texts are parted: {_REMEDY}.")
    embeddings, chance = cast("torch.nn.Embedding", bare.get_input_embeddings()).weight, torch.Generator()
    chance.manual_seed(0)
    texts = [torch.randint(len(embeddings), (1, length), generator=chance) for length in LENGTHS]
    texts = [text.to(embeddings.device) for text in texts]
    with _evaluating(model), torch.no_grad():
        alone = [_logits(model, text, _positions(text)) for text in texts]
        packed = _logits(model, torch.cat(texts, 1), torch.cat([_positions(text) for text in texts], 1))
    differences = [
        float((apart.float() - together.float()).abs().max() / apart.float().abs().max())
        for apart, together in zip(alone, packed.split(LENGTHS), strict=True)
    ]
    tolerance = EXACT if _is_exact(bare) else ROUNDED
    if not max(differences) <= tolerance:  # what is no number is no agreement either
        raise ConfigError(
            f"{name} with attention implementation {bare.config._attn_implementation} looks across the boundaries of "
            f"packed texts: logits differ by up to {max(differences):.2g} of the largest, where {tolerance:g} is "
            f"rounding: {_REMEDY}."
        )


def _takes_positions(model: torch.nn.Module) -> bool:
    parameters = inspect.signature(model.forward).parameters
    return "position_ids" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _positions(text: torch.Tensor) -> torch.Tensor:
    return torch.arange(text.shape[1], device=text.device)[None]


def _logits(model: "PreTrainedModel", text: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    # Without a cache, as in training: boundaries are not looked for where there is one.
    return model(input_ids=text, position_ids=positions, use_cache=False).logits[0]


def _is_exact(model: "PreTrainedModel") -> bool:
    return model.dtype == torch.float32 and not getattr(model, "is_quantized", False)


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    # Each module returns to its own mode: a frozen part may be in another one than the whole.
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
