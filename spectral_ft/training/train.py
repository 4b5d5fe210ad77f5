"""The training loop: transformers.Trainer with our data, our log and checkpoints that can be trusted.

Resuming is bitwise on a CPU: the Trainer restores model, optimizer, scheduler, random states and
position in the data.

Known gaps: learning-rate multipliers of a plan are not applied yet, and no policy sets them.
"""

import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
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
from spectral_ft.storage import replacing, write_json
from spectral_ft.training.memory import peak_memory_bytes
from spectral_ft.training.settings import TrainingSettings
from spectral_ft.types import TrainOutcome

log = logging.getLogger(__name__)
LogRow = Callable[[dict[str, Any]], None]
COMPLETE = "complete.json"
"""Written last into a checkpoint: without it the checkpoint was cut while it was written."""


class TrainingDiverged(SpectralFTError):  # noqa: N818 - reads as what happened
    """The loss is no longer a number."""


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch: adapter initialisation, order of examples, dropout.

    Args:
        seed: The run's.
    """
    set_seed(seed)


def train(
    model: torch.nn.Module,
    examples: Any,
    collate: Callable[[list[dict[str, list[int]]]], dict[str, torch.Tensor]],
    settings: TrainingSettings,
    *,
    seed: int,
    folder: Path,
    save: Callable[[Path], None],
    log_row: LogRow,
) -> TrainOutcome:
    """Train the adapters and save them.

    Args:
        model: Only its adapters are trainable.
        examples: Sized and indexable; rows of input_ids and labels, with `truncated` and `dropped`.
        collate: Rows to a padded batch.
        settings: Steps, batch, optimizer, schedule.
        seed: Of the order of examples and of dropout.
        folder: The run's: `checkpoints/` while it trains, then `adapter/`.
        save: Writes what was trained into a folder.
        log_row: Takes one row of the training log.

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
    checkpoints = folder / "checkpoints"
    resume = last_checkpoint(checkpoints)
    trainer = Trainer(
        model=model,
        args=_arguments(settings, seed=seed, folder=checkpoints),
        train_dataset=examples,
        data_collator=collate,
    )
    watch = _Watch(log_row, done=_seconds_of(resume))
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(watch)
    if resume:
        log.info("resuming the training at %s", resume.name)
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    finally:
        watch.close()
    with replacing(folder / "adapter") as part:
        save(part)
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


def remove_checkpoints(folder: Path) -> None:
    """Remove what only a cut training would need.

    Args:
        folder: The run's.
    """
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; cut ones are removed.

    Args:
        folder: Of the checkpoints.

    Returns:
        Its folder, or None.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    while found:
        newest = found.pop()
        if (newest / COMPLETE).is_file():
            return newest
        log.warning("%s was cut while it was written; taking the one before it", newest.name)
        shutil.rmtree(newest)
    return None


def _arguments(settings: TrainingSettings, *, seed: int, folder: Path) -> TrainingArguments:
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=settings.micro_batch_size,
        gradient_accumulation_steps=settings.batch_size // settings.micro_batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        lr_scheduler_kwargs=settings.schedule_options,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim=settings.optimizer,
        activation_checkpointing=settings.activation_checkpointing,
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


def _seconds_of(checkpoint: Path | None) -> float:
    return float(json.loads((checkpoint / COMPLETE).read_text())["seconds"]) if checkpoint else 0.0


class _Watch(TrainerCallback):
    """Shows progress, passes the log on, stops at a loss that is no number, marks checkpoints as whole."""

    def __init__(self, log_row: LogRow, *, done: float) -> None:
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
        write_json(checkpoint / COMPLETE, {"step": state.global_step, "seconds": self.seconds})
