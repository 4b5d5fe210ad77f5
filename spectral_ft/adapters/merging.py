"""What was trained, folded into the weights of its base: a plain model that needs no adapters.

    LoRA, AdaLoRA:  W' = W + scaling B A      (AdaLoRA: B E A)
    DoRA:           W' = diag(magnitudes / row norms of W + scaling B A) (W + scaling B A)
    IA3:            W' = diag(l) W, or W diag(l) where it scales a feed-forward module's input
    norm tuning, trained tensors: what was trained takes the place of what was there

Never into packed weights: they would be rounded to 4 or 8 bits again, which undoes most of what was trained
(measured on NF4: logits move by 0.27 to 0.30 of their norm; into unpacked weights by less than 1e-6). Dequantize
the base, or load it in its own precision, then put the adapter on it and merge.

Source: the merge of each PEFT method; what differs is said where it is done.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from peft import PeftModel, PeftType
from peft.utils.other import ModulesToSaveWrapper
from pydantic import ConfigDict, FiniteFloat
from pydantic.dataclasses import dataclass
from transformers import PreTrainedModel

from spectral_ft.adapters.bottleneck import NOT_MERGEABLE
from spectral_ft.adapters.bottleneck_layer import BottleneckLinear
from spectral_ft.errors import CheckpointError, PlanError

MERGEABLE = frozenset({"LORA", "ADALORA", "IA3", "LN_TUNING", "TENSORS"})
"""Forms of what was trained (`opening.form_of`) that weights can hold."""

WHY_NOT: Mapping[str, str] = {
    "BOTTLENECK": NOT_MERGEABLE,
    "PREFIX_TUNING": (
        "A trained prefix cannot be merged into the weights: it is keys and values that stand before every text, and "
        "no matrix of the model makes them. Keep the adapter folder beside the base model."
    ),
}
"""Forms that weights cannot hold, each with the reason."""

TEXTS, LENGTH = 4, 32
"""Of the batch on which two forms of a model are compared, in texts and tokens."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Difference:
    """How far the logits of two forms of a model are apart on one batch."""

    largest: FiniteFloat
    """Of any logit, absolute."""
    relative: FiniteFloat
    """Norm of the difference over the norm of the first form's logits."""


def why_not_mergeable(form: str) -> str | None:
    """Why what was trained has no merged form.

    Args:
        form: Of what was trained, as `opening.form_of` calls it.

    Returns:
        A reason; None where it can be merged.
    """
    if form in MERGEABLE:
        return None
    return WHY_NOT.get(form, f"Nothing here knows how to merge {form}: what can be is {', '.join(sorted(MERGEABLE))}.")


def unpack(model: PreTrainedModel) -> PreTrainedModel:
    """A base whose own files are packed into 4 or 8 bits, as what they stand for; any other as it is.

    Args:
        model: Changed in place.

    Returns:
        The model without packed weights, frozen.

    Raises:
        CheckpointError: If the library knows no way back from this packing.
    """
    if not getattr(model, "is_quantized", False):
        return model
    if any(getattr(_quant_state(parameter), "packing_format_for_cpu", False) for parameter in model.parameters()):
        # Dequantized now, the codes would come out in the wrong places, and no error would say so.
        raise CheckpointError(
            f"{model.name_or_path} has run in 4 bits on a CPU with bf16 units, for which bitsandbytes rearranged its "
            "codes: load it again, and dequantize it before anything runs."
        )
    try:
        unpacked = cast(Any, model).dequantize(dtype=model.dtype)  # by default that of config.json
    except (NotImplementedError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{model.name_or_path} is packed, and there is no way back to weights that could be merged: {error}"
        ) from error
    # How the packed files were read cannot be undone when it is saved; None stands for the architecture's own way.
    unpacked._weight_conversions = None
    return cast(PreTrainedModel, unpacked.requires_grad_(False).eval())


def merge(adapted: torch.nn.Module) -> PreTrainedModel:
    """Fold what was trained into the weights, in place.

    Args:
        adapted: As `opening.open_adapter` gives it, on an unpacked base; it must not be used any more.

    Returns:
        The base with the merged weights, frozen, without adapter modules.

    Raises:
        PlanError: If the form cannot be merged, or the base is packed.
        CheckpointError: If a merged weight would be NaN or infinite.
    """
    form = PeftType(adapted.active_peft_config.peft_type).value if isinstance(adapted, PeftModel) else "TENSORS"
    if any(isinstance(module, BottleneckLinear) for module in adapted.modules()):
        form = "BOTTLENECK"
    if reason := why_not_mergeable(form):
        raise PlanError(reason)
    if packed := next((name for name, parameter in adapted.named_parameters() if _is_packed(parameter)), None):
        raise PlanError(
            f"{packed} is packed: merging into it would round what was trained to 4 or 8 bits. Load the base without "
            "quantization, or dequantize it, and put the adapter on that."
        )
    try:
        model = adapted.merge_and_unload(safe_merge=True) if isinstance(adapted, PeftModel) else adapted
    except ValueError as error:
        raise CheckpointError(f"the adapter cannot be merged: {error}") from error
    _unwrap(model)
    return cast(PreTrainedModel, model.requires_grad_(False).eval())


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    """What a model says to a fixed batch of random tokens.

    Args:
        model: Base, adapted or merged, of any kind, in evaluation mode.

    Returns:
        float32 on the CPU, shape (texts, tokens, vocabulary), or (texts, labels) of a classifier.
    """
    base = cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)
    config = base.config.get_text_config()
    length = min(LENGTH, getattr(config, "max_position_embeddings", None) or LENGTH)
    # Tokenizers keep what has a meaning of its own, such as padding, at either end of the vocabulary.
    tokens = torch.randint(
        config.vocab_size // 8,
        config.vocab_size - config.vocab_size // 8,
        (TEXTS, length),
        generator=torch.Generator().manual_seed(0),
    ).to(base.device)
    given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if base.config.is_encoder_decoder:
        given["decoder_input_ids"] = tokens
    return cast(torch.Tensor, model(**given).logits.float().cpu())


def difference(one: torch.Tensor, other: torch.Tensor) -> Difference:
    """How far logits are apart.

    Args:
        one: Logits of the form that counts as right.
        other: Logits of another form, of the same shape.

    Returns:
        The difference.

    Raises:
        CheckpointError: If a logit is NaN or infinite.
    """
    for each in (one, other):
        if wrong := int((~torch.isfinite(each)).sum()):
            raise CheckpointError(f"{wrong} of {each.numel()} logits are NaN or infinite: the training diverged.")
    apart = (one.double() - other.double()).abs()
    return Difference(largest=float(apart.max()), relative=float(apart.norm() / one.double().norm()))


def _is_packed(parameter: Any) -> bool:
    # bitsandbytes leaves its scales on the parameter.
    return _quant_state(parameter) is not None or getattr(parameter, "SCB", None) is not None


def _quant_state(parameter: Any) -> Any:
    return getattr(parameter, "quant_state", None)


def _unwrap(model: torch.nn.Module) -> None:
    # PEFT's norm tuning leaves the wrappers of what was trained as a whole (a classifier's head), under names that
    # no plain model has.
    wrapped = [(name, module) for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)]
    for name, module in wrapped:
        model.set_submodule(name, module.modules_to_save[module.active_adapters[0]])
