"""Our training options as the Trainer's arguments."""

import dataclasses
import difflib
import math
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from spectral_ft.errors import ConfigError, DataError
from spectral_ft.processes import process_count
from spectral_ft.training.settings import TrainingSettings


def optimizer_steps(settings: TrainingSettings, examples: int) -> int:
    """How many optimizer steps a training takes.

    Args:
        settings: Steps or epochs, and the batch.
        examples: In the training set.

    Returns:
        The number; the last batch of an epoch may be smaller.
    """
    if settings.max_steps is not None:
        return settings.max_steps
    micro_batches = math.ceil(examples / settings.micro_batch_size)
    accumulated = settings.batch_size // settings.micro_batch_size
    return math.ceil(settings.epochs * math.ceil(micro_batches / accumulated))


def check_amount(settings: TrainingSettings, *, examples: int, any_held_out: bool) -> None:
    """Whether there are enough examples.

    Args:
        settings: Of the training stage.
        examples: In the training set.
        any_held_out: Whether there are validation examples.

    Raises:
        DataError: If there are fewer examples than one batch, or no validation examples where they are looked at.
    """
    if examples < settings.batch_size:
        raise DataError(
            f"{examples} training examples are fewer than training.batch_size={settings.batch_size}: "
            "lower the batch, or raise dataset.limit."
        )
    if settings.validation_steps is not None and not any_held_out:
        raise DataError(
            f"training.validation_steps={settings.validation_steps} looks at validation examples, and there are none: "
            "raise dataset.validation, or give more data."
        )


def trainer_arguments(
    settings: TrainingSettings, *, steps: int, seed: int, folder: Path, bf16: bool = False, fp16: bool = False
) -> TrainingArguments:
    """What the Trainer is told.

    Args:
        settings: Of the training stage.
        steps: Optimizer steps.
        seed: Of the order of examples and of dropout.
        folder: Of the checkpoints.
        bf16: Compute products in bfloat16.
        fp16: Compute products in float16, losses scaled.

    Returns:
        The arguments.

    Raises:
        ConfigError: If the Trainer knows no such option, or refuses a value.
    """
    known = [field.name for field in dataclasses.fields(TrainingArguments)]
    if unknown := sorted((settings.trainer_options or {}).keys() - set(known)):
        near = difflib.get_close_matches(unknown[0], known, n=3)
        hint = (
            f"did you mean {', '.join(near)}?" if near else "see the documentation of transformers.TrainingArguments."
        )
        raise ConfigError(f"training.trainer_options.{unknown[0]} is no option of the Trainer: {hint}")
    options: dict[str, Any] = {
        "use_cpu": not torch.cuda.is_available(),
        "bf16": bf16,
        "fp16": fp16,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,  # what is trained is used in every step
    } | (settings.trainer_options or {})
    try:
        arguments = TrainingArguments(
            **settings.own_arguments(steps=steps, seed=seed, folder=str(folder), processes=process_count()), **options
        )
    except (ValueError, ImportError) as error:
        raise ConfigError(f"the Trainer refuses these training options: {error}") from error
    if arguments.world_size != process_count():
        # Each process would train on everything, and nobody would be told.
        raise ConfigError(
            f"{process_count()} processes were started and the Trainer sees {arguments.world_size}: start them with "
            "torchrun or accelerate launch, and leave training.trainer_options.use_cpu out."
        )
    return arguments
