"""Load a checkpoint's model and tokenizer with transformers.

A checkpoint that was no classifier lacks the head of one. The head is then drawn from a seed of its
own, so that every load of a run, before training and after it, has the same one, whatever else has
drawn random numbers. Everything but such a head must be in the files.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as library_log

from spectral_ft.end_marks import added_marks
from spectral_ft.errors import CheckpointError, ConfigError, OutOfMemory
from spectral_ft.hub import config_errors
from spectral_ft.machine import free_memory
from spectral_ft.models.blueprints import LOADERS, blueprint, configuration, head_modules
from spectral_ft.models.device import Dtype, compute_device, is_out_of_memory, resolve_dtype
from spectral_ft.models.kinds import Kind, padding_side
from spectral_ft.models.quantization import check_supported
from spectral_ft.models.slow_dtype import WORTH_SAYING, slowdown
from spectral_ft.models.soundness import check_finite, fresh_parameters
from spectral_ft.models.tensors import is_safetensors
from spectral_ft.models.torch_files import torch_contents

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

REPACKING = "support_avx512bf16_for_cpu"
"""Of bitsandbytes' 4-bit linears."""
log = logging.getLogger(__name__)
library_log.disable_progress_bar()  # reading shards is quick; the bars of the stages are what a reader watches


class Quantization(Protocol):
    """The precision of the frozen base."""

    def load_options(self, compute_dtype: torch.dtype) -> "BitsAndBytesConfig | None":
        """What `from_pretrained` is told."""
        ...


def load_model(
    folder: Path,
    *,
    kind: Kind = "causal_lm",
    labels: Sequence[str] | None = None,
    quantization: Quantization,
    dtype: Dtype,
    trust_remote_code: bool,
    head_seed: int = 0,
    attention: str | None = None,
) -> PreTrainedModel:
    """A model in evaluation mode, its parameters frozen.

    Args:
        folder: Checkpoint.
        kind: What the model shall do.
        labels: Of a classifier, in the order of their ids.
        quantization: Precision of the block matrices; a classifier's head keeps `dtype`.
        dtype: Of everything else, and of the matrices where they are not quantized.
        trust_remote_code: Run code that comes with the checkpoint.
        attention: Implementation, as transformers calls it; None: its own choice.
        head_seed: Of a classifier's head where the checkpoint has none; no other random state is touched.

    Returns:
        The model, on the device where it will run.

    Raises:
        CheckpointError: If the files do not make such a model, or a weight is NaN or infinite.
        ConfigError: If packed weights or the attention cannot be had on this machine.
        OutOfMemory: If the weights do not fit.
    """
    device = compute_device()
    precision = resolve_dtype(dtype, device)
    if precision == torch.bfloat16 and device.type == "cpu" and (factor := slowdown(precision)) > WORTH_SAYING:
        log.warning(
            "bfloat16 products take %.0f times as long as float32 on this CPU (measured): set model.dtype=float32",
            factor,
        )
    config = configuration(folder, kind=kind, labels=labels, trust_remote_code=trust_remote_code)
    heads: tuple[str, ...] = ()
    if kind == "classifier":
        bare = blueprint(folder, kind=kind, labels=labels, trust_remote_code=trust_remote_code)
        heads = head_modules(bare, kind=kind)
    packing = quantization.load_options(precision)
    if packing is not None:
        check_supported(device)
    if packing is not None and heads:
        packing.llm_int8_skip_modules = list(heads)  # it is trained as a whole
    safe = is_safetensors(folder)
    if not safe:
        torch_contents(folder)  # refuses a `.bin` file that holds more than weights, in our words
    try:
        with _seeded(head_seed, device), _quiet():
            model, told = LOADERS[kind].from_pretrained(
                folder,
                config=config,
                dtype=precision,
                quantization_config=packing,
                device_map={"": device},
                attn_implementation=attention,
                trust_remote_code=trust_remote_code,
                use_safetensors=safe,
                ignore_mismatched_sizes=True,  # they are told below, with both shapes
                output_loading_info=True,
            )
    except ImportError as error:
        raise ConfigError(
            f"model.attention={attention} or quantization needs a package that is not here ({error}): install it, or "
            "leave the option out."
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, MemoryError, SafetensorError) as error:
        if is_out_of_memory(error):
            sentence = _too_large(folder, config, kind=kind, dtype=precision, device=device)
            raise OutOfMemory(f"{sentence} ({str(error).splitlines()[0]})") from error
        raise CheckpointError(f"{folder} could not be loaded as model.kind={kind}: {error}") from error
    fresh = fresh_parameters(model, told, heads=heads, folder=folder)
    if fresh:
        log.info("%s has no head for %s: %s drawn with seed %d", folder.name, labels, " and ".join(fresh), head_seed)
    if kind == "classifier" and model.config.pad_token_id is None:
        # Decoders find the last token of a text by it.
        tokenizer = load_tokenizer(folder, kind=kind, trust_remote_code=trust_remote_code)
        model.config.pad_token_id = tokenizer.pad_token_id
    if kind != "causal_lm":
        # Their loss is the mean over a micro-batch; told otherwise, the Trainer adds up the micro-batches of a step.
        model.accepts_loss_kwargs = False
    for module in (module for module in model.modules() if hasattr(module, REPACKING)):
        # Otherwise bitsandbytes repacks 4-bit weights at the first forward in evaluation mode on a CPU with bf16
        # units, after which no gradient passes and they are read wrong.
        setattr(module, REPACKING, False)
    check_finite(model)
    model.requires_grad_(False)
    return model.eval()


def _too_large(
    folder: Path,
    config: PreTrainedConfig,
    *,
    kind: Kind,
    dtype: torch.dtype,
    device: torch.device,
) -> str:
    with torch.device("meta"):
        entries = sum(parameter.numel() for parameter in LOADERS[kind].from_config(config).parameters())
    return (
        f"{device} ran out of memory while {folder} was loaded: its {entries / 1e9:.1f} billion parameters take "
        f"{entries * dtype.itemsize / 2**30:.1f} GiB in {str(dtype).removeprefix('torch.')}, and "
        f"{free_memory(device) / 2**30:.1f} GiB are free. Set quantization=nf4 (a quarter of 16 bits), choose a "
        "smaller model, or end other programs that hold the memory."
    )


def load_tokenizer(folder: Path, *, kind: Kind = "causal_lm", trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, with a padding token.

    Args:
        folder: Checkpoint.
        kind: Of the model: causal language models are padded on the left, others on the right.
        trust_remote_code: Run code that comes with the checkpoint.

    Returns:
        The tokenizer. One without an end token gets that of the model's config, if the model writes.

    Raises:
        CheckpointError: If it cannot be loaded, has no end token and the model writes, has ids beyond the model's
            vocabulary, or nothing to pad with.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except config_errors() as error:
        raise CheckpointError(f"{folder}: the tokenizer could not be loaded: {error}") from error
    if tokenizer.eos_token_id is None and kind != "classifier":
        _name_end(tokenizer, config, folder)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise CheckpointError(
                f"{folder}: its tokenizer has neither a padding nor an end token, and batches need one: name it as "
                "pad_token in its tokenizer_config.json."
            )
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = padding_side(kind)
    largest = max(tokenizer.get_vocab().values())
    size = config.get_text_config().vocab_size
    if largest >= size:
        raise CheckpointError(
            f"{folder}: the tokenizer has ids up to {largest}, the model's vocabulary ends at {size - 1}. "
            "Tokenizer and model do not belong together."
        )
    return tokenizer


def _name_end(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, folder: Path) -> None:
    # What it sets behind every text itself, or what the model's own files name.
    named = [*added_marks(tokenizer).behind[-1:], config.get_text_config().eos_token_id]
    if (folder / "generation_config.json").is_file():
        named.append(GenerationConfig.from_pretrained(folder).eos_token_id)
    flat = [one for entry in named for one in (entry if isinstance(entry, list) else [entry])]
    known = set(tokenizer.get_vocab().values())
    end = next((one for one in flat if one in known), None)
    if end is None:
        raise CheckpointError(
            f"{folder}: its tokenizer names no end token, and neither does the model's config, so that it could not "
            "learn to stop: name it as eos_token in tokenizer_config.json."
        )
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    log.info(
        "the tokenizer of %s names no end token: %s is taken, as its files use it", folder.name, tokenizer.eos_token
    )


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    # A random state of its own for what is drawn while a model loads.
    with torch.random.fork_rng([torch.cuda.current_device()] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    # The library prints a table of missing tensors; what matters of it is said in one sentence.
    before = library_log.get_verbosity()
    library_log.set_verbosity_error()
    try:
        yield
    finally:
        library_log.set_verbosity(before)
