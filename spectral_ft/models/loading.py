"""Load a checkpoint's model and tokenizer with transformers."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from spectral_ft.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

log = logging.getLogger(__name__)
disable_progress_bar()  # reading shards is quick; the bars of the stages are what a reader watches


class Quantization(Protocol):
    """The precision of the frozen base."""

    def load_options(self, compute_dtype: torch.dtype) -> "BitsAndBytesConfig | None":
        """What `from_pretrained` is told."""
        ...


def compute_device() -> torch.device:
    """Where models run: the first CUDA device, or the CPU.

    Returns:
        The device.
    """
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_dtype(dtype: Literal["auto", "float32", "bfloat16"], device: torch.device) -> torch.dtype:
    """The dtype of the unquantized weights.

    Args:
        dtype: The option.
        device: Where the model will run.

    Returns:
        For `auto`, float32 on a CPU and bfloat16 elsewhere.
    """
    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def load_model(
    folder: Path,
    *,
    quantization: Quantization,
    dtype: Literal["auto", "float32", "bfloat16"],
    trust_remote_code: bool,
) -> PreTrainedModel:
    """A causal language model in evaluation mode, its parameters frozen.

    Args:
        folder: Checkpoint.
        quantization: Precision of the block matrices.
        dtype: Of everything else, and of the matrices where they are not quantized.
        trust_remote_code: Run code that comes with the checkpoint.

    Returns:
        The model, on the device where it will run.

    Raises:
        CheckpointError: If the files do not make such a model, or a weight is NaN or infinite.
    """
    device = compute_device()
    precision = resolve_dtype(dtype, device)
    if precision == torch.bfloat16 and device.type == "cpu":
        log.warning("bfloat16 was asked for on a CPU: without bf16 units it can be many times slower than float32")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=precision,
            quantization_config=quantization.load_options(precision),
            device_map={"": device},
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{folder} could not be loaded as a causal language model: {error}") from error
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not torch.isfinite(parameter).all():
            bad = int((~torch.isfinite(parameter)).sum())
            raise CheckpointError(
                f"{name} holds {bad} NaN or infinite entries of {parameter.numel()}. "
                "The checkpoint is damaged, or its training diverged."
            )
    model.requires_grad_(False)
    return model.eval()


def load_tokenizer(folder: Path, *, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, with a padding token, padding on the left.

    Args:
        folder: Checkpoint.
        trust_remote_code: Run code that comes with the checkpoint.

    Returns:
        The tokenizer.

    Raises:
        CheckpointError: If it cannot be loaded, or has ids beyond the model's vocabulary.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: the tokenizer could not be loaded: {error}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    largest = max(tokenizer.get_vocab().values())
    size = config.get_text_config().vocab_size
    if largest >= size:
        raise CheckpointError(
            f"{folder}: the tokenizer has ids up to {largest}, the model's vocabulary ends at {size - 1}. "
            "Tokenizer and model do not belong together."
        )
    return tokenizer


def count_parameters(folder: Path, *, trust_remote_code: bool) -> int:
    """Parameters of a model, tied ones once, without loading its weights.

    Args:
        folder: Checkpoint; its `config.json` is enough.
        trust_remote_code: Run code that comes with the checkpoint.

    Returns:
        The number.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    return sum(parameter.numel() for parameter in model.parameters())
