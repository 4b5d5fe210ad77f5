"""The training loop: transformers.Trainer with our data, our log and checkpoints that can be trusted.

Resuming is bitwise on a CPU: the Trainer restores optimizer, scheduler, random states and position in the data, and
`checkpoints.py` what was trained.
"""

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from spectral_ft.errors import DataError, SpectralFTError
from spectral_ft.storage import replacing
from spectral_ft.training.checkpoints import load_trained, mark_whole, save_trained, seconds_of
from spectral_ft.training.memory import peak_memory_bytes
from spectral_ft.training.optimizer import build_optimizer
from spectral_ft.training.settings import TrainingSettings
from spectral_ft.types import TrainOutcome

log = logging.getLogger(__name__)
LogRow = Callable[[dict[str, Any]], None]


class TrainingDiverged(SpectralFTError):  # noqa: N818 - reads as what happened
    """The loss is no longer a number."""


class Trained(Protocol):
    """A model with what is trained on it."""

    @property
    def model(self) -> torch.nn.Module:
        """Only what shall be trained is trainable."""
        ...

    @property
    def save(self) -> Callable[[Path], None]:
        """Writes what was trained into a folder."""
        ...

    @property
    def after_step(self) -> Callable[[int], None]:
        """Called after each optimizer step, while gradients are still there."""
        ...

    @property
    def state(self) -> Callable[[], dict[str, Any]]:
        """What must be kept beside the weights when training is cut."""
        ...

    @property
    def restore(self) -> Callable[[dict[str, Any]], None]:
        """Takes what `state` gave."""
        ...


class Rounds(Protocol):
    """Whoever asks the policy again while the model trains."""

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Called after each optimizer step."""
        ...

    def write(self, checkpoint: Path) -> None:
        """Write what is needed to go on from a checkpoint."""
        ...


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch: adapter initialisation, order of examples, dropout.

    Args:
        seed: The run's.
    """
    set_seed(seed)


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


def train(
    trained: Trained,
    examples: Any,
    collate: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]],
    settings: TrainingSettings,
    *,
    activation_checkpointing: bool,
    multipliers: Mapping[str, float],
    rounds: Rounds,
    seed: int,
    folder: Path,
    resume: Path | None,
    log_row: LogRow,
    possible_multipliers: Collection[float] = (),
) -> TrainOutcome:
    """Train the adapters and save them.

    Args:
        trained: The adapted model.
        examples: Sized and indexable; rows of input_ids and labels, with `truncated` and `dropped`.
        collate: Rows to a padded batch.
        settings: Steps, batch, optimizer, schedule.
        activation_checkpointing: Recompute activations in backward.
        multipliers: Module name to what its learning rate is multiplied by.
        rounds: Asks the policy again.
        seed: Of the order of examples and of dropout.
        folder: The run's: `checkpoints/` while it trains, then `adapter/`.
        resume: The checkpoint to go on from; None starts.
        log_row: Takes one row of the training log.
        possible_multipliers: Those that a later round may give.

    Returns:
        What it left and what it cost.

    Raises:
        DataError: If there are fewer examples than one batch.
        TrainingDiverged: If the loss is not finite.
    """
    if len(examples) < settings.batch_size:
        raise DataError(
            f"{len(examples)} training examples are fewer than training.batch_size={settings.batch_size}: "
            "lower the batch, or raise dataset.limit."
        )
    model = trained.model
    arguments = _arguments(
        settings,
        steps=optimizer_steps(settings, len(examples)),
        activation_checkpointing=activation_checkpointing,
        seed=seed,
        folder=folder / "checkpoints",
    )
    optimizer = build_optimizer(model, arguments, multipliers, possible=possible_multipliers)
    trainer = _Trainer(
        trained,
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=collate,
        optimizers=(optimizer, None),
    )
    watch = _Watch(trained, rounds, optimizer, log_row, done=seconds_of(resume))
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(watch)
    if resume:
        log.info("resuming the training at %s", resume.name)
    try:
        with logging_redirect_tqdm():
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    finally:
        watch.close()
    with replacing(folder / "adapter") as part:
        trained.save(part)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    tail = losses[-max(1, len(losses) // 10) :]
    tokens = int(trainer.state.num_input_tokens_seen)
    return TrainOutcome(
        adapter="adapter",
        first_loss=losses[0],
        final_loss=sum(tail) / len(tail),
        steps=trainer.state.global_step,
        seconds=round(watch.seconds, 3),
        tokens=tokens,
        tokens_per_second=round(tokens / watch.seconds, 1),
        peak_memory_bytes=peak_memory_bytes(),
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        examples=len(examples),
        truncated_examples=examples.truncated,
        dropped_examples=examples.dropped,
    )


class _Trainer(Trainer):
    """Checkpoints hold what is trained, in our form: no copy of the base, ties and allocators kept."""

    def __init__(self, trained: Trained, **options: Any) -> None:
        super().__init__(**options)
        self._trained = trained

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        del state_dict
        save_trained(self._trained.model, self._trained.state(), Path(str(output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        del model
        self._trained.restore(load_trained(self._trained.model, Path(resume_from_checkpoint)))


def _arguments(
    settings: TrainingSettings, *, steps: int, activation_checkpointing: bool, seed: int, folder: Path
) -> TrainingArguments:
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=settings.micro_batch_size,
        gradient_accumulation_steps=settings.batch_size // settings.micro_batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        lr_scheduler_kwargs=settings.schedule_options,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim=settings.optimizer,
        activation_checkpointing=activation_checkpointing,
        bf16=bf16,
        seed=seed,
        data_seed=seed,
        logging_steps=settings.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # a loss that is no number must be seen
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=2,
        dataloader_drop_last=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        label_names=["labels"],
        include_num_input_tokens_seen="non_padding",
        report_to=[],
        disable_tqdm=True,  # its bar prints every log line too; `_Watch` has one that does not
    )


class _Watch(TrainerCallback):
    """Shows progress, passes the log on, stops at a loss that is no number, lets method and rounds act after a step."""

    def __init__(
        self, trained: Trained, rounds: Rounds, optimizer: torch.optim.Optimizer, log_row: LogRow, *, done: float
    ) -> None:
        self._trained = trained
        self._rounds = rounds
        self._optimizer = optimizer
        self._log_row = log_row
        self._done = done
        self._began = time.perf_counter()
        self._bar: tqdm[Any] | None = None

    @property
    def seconds(self) -> float:
        return self._done + time.perf_counter() - self._began

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        del args, control, kwargs
        self._began = time.perf_counter()
        self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step", leave=False)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        del args, control, kwargs
        step = state.global_step + 1  # the Trainer counts it later
        self._trained.after_step(step)
        self._rounds.after_step(step, self._optimizer)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        del args, control, kwargs
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        del args, control
        logs = kwargs["logs"]
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise TrainingDiverged(
                f"the training loss is {logs['loss']} at step {state.global_step}: lower training.learning_rate, "
                "or look for a broken example or weight."
            )
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)
        row = {"step": state.global_step, "epoch": round(state.epoch or 0, 4), "seconds": round(self.seconds, 2)}
        self._log_row({**row, **{key: logs[key] for key in ("loss", "grad_norm", "learning_rate") if key in logs}})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        del control, kwargs
        checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        self._rounds.write(checkpoint)
        mark_whole(checkpoint, step=state.global_step, seconds=self.seconds)
