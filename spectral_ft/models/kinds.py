"""The three kinds of model that are trained here, and which of them a checkpoint can be.

A causal language model goes on with a text, a seq2seq model writes one text after reading another, a
classifier reads a text and names one of its labels. BERT-like encoders are in the library's list of
causal models too, since their weights can be run as a decoder's; without that training they write
nothing that means anything, so that they count as classifiers only.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spectral_ft.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Kind = Literal["causal_lm", "seq2seq", "classifier"]
"""The option `model.kind`."""

_TASK_TYPES: Mapping[Kind, str] = {"causal_lm": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "classifier": "SEQ_CLS"}


def padding_side(kind: Kind) -> Literal["left", "right"]:
    """The side on which the texts of a batch are padded.

    Args:
        kind: The option.

    Returns:
        `left` for causal language models, whose prompts must end where generation begins.
    """
    return "left" if kind == "causal_lm" else "right"


def task_type(kind: Kind) -> str:
    """What PEFT calls a kind.

    Args:
        kind: The option.

    Returns:
        A name of `peft.TaskType`.
    """
    return _TASK_TYPES[kind]


def check_kind(config: "PreTrainedConfig", kind: Kind, *, folder: Path) -> None:
    """Refuse an architecture that cannot be of a kind.

    Args:
        config: Of the checkpoint.
        kind: The option.
        folder: Of the checkpoint, for the error.

    Raises:
        CheckpointError: If the architecture has no model of that kind.
    """
    possible = possible_kinds(config)
    if kind not in possible:
        way_out = f"use model.kind={' or '.join(possible)}" if possible else "none of the kinds fits it"
        raise CheckpointError(
            f"{folder} holds a {config.model_type} model, which cannot be loaded as model.kind={kind}: {way_out}."
        )


def possible_kinds(config: "PreTrainedConfig") -> list[Kind]:
    """The kinds of model that an architecture can be.

    Args:
        config: Of the checkpoint.

    Returns:
        Some of the three; none for what has nothing to do with text.
    """
    from transformers.models.auto import modeling_auto as known

    own_code = getattr(config, "auto_map", None) or {}  # classes that come with the checkpoint
    decodes = getattr(config, "is_decoder", False) or config.model_type not in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    can_be: Mapping[Kind, bool] = {
        "causal_lm": "AutoModelForCausalLM" in own_code
        or (config.model_type in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and decodes and not config.is_encoder_decoder),
        "seq2seq": "AutoModelForSeq2SeqLM" in own_code
        or config.model_type in known.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        "classifier": "AutoModelForSequenceClassification" in own_code
        or config.model_type in known.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    }
    return [kind for kind, can in can_be.items() if can]
