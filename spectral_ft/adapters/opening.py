"""A folder of what was trained, in whichever form, back onto its base."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from peft import AdaLoraConfig, AdaLoraModel, PeftModel, get_peft_model_state_dict
from peft.utils import load_peft_weights
from safetensors import SafetensorError
from transformers import PreTrainedModel

from spectral_ft.adapters import bottleneck, tensors
from spectral_ft.adapters.lora_layer import ADAPTER
from spectral_ft.adapters.soundness import check_finite
from spectral_ft.errors import CheckpointError

CONFIG = "adapter_config.json"


def open_adapter(model: PreTrainedModel, folder: Path) -> torch.nn.Module:
    """Put what was trained on its base.

    Args:
        model: Frozen base; may be changed in place.
        folder: A PEFT adapter, bottleneck adapters, or trained tensors.

    Returns:
        The adapted model, in evaluation mode.

    Raises:
        CheckpointError: If the folder holds none of these, is damaged, or does not fit the base.
    """
    if (folder / tensors.FILE).is_file():
        return tensors.open_tensors(model, folder)
    if form_of(folder) == "BOTTLENECK":
        return bottleneck.open_bottlenecks(model, folder)
    try:
        opened = PeftModel.from_pretrained(model, folder).eval()
        stored = load_peft_weights(str(folder), device="cpu")
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"{folder} could not be put on this base model: {error}") from error
    _check_whole(stored, opened, folder)
    if isinstance(opened.base_model, AdaLoraModel):
        _without_penalty(opened)
    return opened


def _check_whole(stored: Mapping[str, torch.Tensor], opened: PeftModel, folder: Path) -> None:
    # PEFT starts anew what is missing, and leaves out what has no place.
    wanted = get_peft_model_state_dict(opened)
    for name in sorted(wanted.keys() ^ stored.keys()):
        what = "is missing from" if name in wanted else "has no place in the base, but is in"
        raise CheckpointError(f"{folder} could not be put on this base model: {name} {what} its weights.")
    check_finite(stored, folder)


def _without_penalty(opened: PeftModel) -> None:
    # PEFT's forward adds AdaLoRA's penalty to every loss, and looks for the adapter that is trained.
    opened.base_model.trainable_adapter_name = ADAPTER  # type: ignore[assignment]
    cast(AdaLoraConfig, opened.peft_config[ADAPTER]).orth_reg_weight = 0.0


def form_of(folder: Path) -> str:
    """What a folder holds.

    Args:
        folder: Of what was trained.

    Returns:
        PEFT's name of the method, `BOTTLENECK`, or `TENSORS`.

    Raises:
        CheckpointError: If it holds nothing of the kind, or its configuration is damaged.
    """
    if (folder / tensors.FILE).is_file():
        return "TENSORS"
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config.get("megatron_config"):
            raise CheckpointError(
                f"{folder / CONFIG} has a megatron_config, for which PEFT would import {config.get('megatron_core')}: "
                "such adapters are not opened."
            )
        return str(config["peft_type"])
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} holds no adapter: neither {CONFIG} nor {tensors.FILE} is there.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder / CONFIG} is damaged: {error!r}.") from error
