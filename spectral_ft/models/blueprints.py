"""A checkpoint's model without its weights, and which of its modules are a classifier's head."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from spectral_ft.errors import CheckpointError
from spectral_ft.hub import config_errors
from spectral_ft.models.kinds import Kind, check_kind

LOADERS: Mapping[Kind, Any] = {
    "causal_lm": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
    "classifier": AutoModelForSequenceClassification,
}
"""The library's class for each kind."""


def configuration(
    folder: Path, *, kind: Kind | None, labels: Sequence[str] | None, trust_remote_code: bool
) -> PreTrainedConfig:
    """A checkpoint's configuration, with labels.

    Args:
        folder: Checkpoint; its `config.json` is enough.
        kind: What the model shall do; None for any.
        labels: Of a classifier, in the order of their ids; None for any other kind.
        trust_remote_code: Run code that comes with the checkpoint.

    Returns:
        The library's object.

    Raises:
        CheckpointError: If it cannot be read, or the architecture cannot be of that kind.
    """
    names: dict[str, Any] = {}
    if labels is not None:
        names = {"id2label": dict(enumerate(labels)), "label2id": {name: number for number, name in enumerate(labels)}}
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, **names)
    except config_errors() as error:
        raise CheckpointError(f"{folder}: config.json cannot be used: {' '.join(str(error).split())}") from error
    if kind is not None:
        check_kind(config, kind, folder=folder)
    return config


def blueprint(
    folder: Path, *, kind: Kind = "causal_lm", labels: Sequence[str] | None = None, trust_remote_code: bool
) -> PreTrainedModel:
    """A model without its weights.

    Args:
        folder: Checkpoint; its `config.json` is enough.
        kind: What the model shall do.
        labels: Of a classifier, in the order of their ids.
        trust_remote_code: Run code that comes with the checkpoint.

    Returns:
        A model on the meta device.

    Raises:
        CheckpointError: If the configuration cannot be read, or the architecture cannot be of that kind.
    """
    config = configuration(folder, kind=kind, labels=labels, trust_remote_code=trust_remote_code)
    try:
        with torch.device("meta"):
            return LOADERS[kind].from_config(config, trust_remote_code=trust_remote_code)
    except config_errors() as error:
        raise CheckpointError(
            f"{folder}: config.json describes a {config.model_type} that cannot be built: {type(error).__name__}: "
            f"{' '.join(str(error).split())}"
        ) from error


def head_modules(model: PreTrainedModel, *, kind: Kind) -> tuple[str, ...]:
    """What is trained as a whole beside any adapter: a classifier's head.

    Args:
        model: With or without weights.
        kind: What it does.

    Returns:
        Names of the modules outside the pretrained body; none for a model that is no classifier.
    """
    if kind != "classifier":
        return ()
    beside = [(name, module) for name, module in model.named_children() if name != model.base_model_prefix]
    return tuple(name for name, module in beside if any(True for _ in module.parameters()))
