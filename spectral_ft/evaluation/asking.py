"""What can be wrong with how a model shall be asked, told before there is a model."""

from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from spectral_ft.errors import ConfigError
from spectral_ft.spelling import nearest

HARNESS_NAMES = frozenset({"until", "max_gen_toks", "do_sample"})
"""Settings of generation that the harness itself reads."""
UNUSABLE = frozenset({
    "max_length", "max_new_tokens", "num_return_sequences", "return_dict_in_generate", "stop_strings",
    "transformers_version",
})  # fmt: skip
"""Of transformers, and not to be had through the harness, which reads one text an item."""


def check_generation(options: Mapping[str, Any]) -> None:
    """Refuse settings of generation that transformers would refuse at the first answer.

    Args:
        options: By the harness's names.

    Raises:
        ConfigError: If there is no such setting, or it cannot have this value.
    """
    theirs = {name for name in vars(GenerationConfig()) if not name.startswith("_")} - UNUSABLE
    known = sorted(HARNESS_NAMES | theirs)
    if unknown := sorted(options.keys() - set(known)):
        raise ConfigError(
            f"benchmark.generation.{unknown[0]} is no setting of generation.{nearest(unknown[0], known)} There is "
            f"{', '.join(sorted(HARNESS_NAMES))}, and what transformers.GenerationConfig has, but "
            f"{', '.join(sorted(UNUSABLE))}."
        )
    beams = options.get("num_beams", 1)
    if not isinstance(beams, int) or beams < 1:
        raise ConfigError(f"benchmark.generation.num_beams={beams}: it must be a whole number, at least 1.")
    temperature = options.get("temperature")
    if options.get("do_sample") and not (isinstance(temperature, int | float) and temperature > 0):
        raise ConfigError(
            "benchmark.generation.do_sample=true needs a benchmark.generation.temperature above 0: the harness's is 0."
        )
    try:
        GenerationConfig(**{name: value for name, value in options.items() if name in theirs}).validate()
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"benchmark.generation={dict(options)} cannot be: {error}") from error


def check_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a chat with a model that has no form for one.

    Args:
        tokenizer: Of the model.

    Raises:
        ConfigError: If it has no chat template.
    """
    if not tokenizer.chat_template:
        raise ConfigError(
            f"benchmark.chat_template=true, and the tokenizer {tokenizer.name_or_path} has no chat template: set it to "
            "false, or use a model that was trained on chats."
        )
