"""The training loop: transformers.Trainer with our data, our log and checkpoints that can be trusted.

Resuming is bitwise on a CPU: the Trainer restores optimizer, scheduler, random states and position in the data, and
`trained_state.py` what was trained.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import PrinterCallback, TrainerCallback, set_seed

from spectral_ft.errors import Interrupted
from spectral_ft.processes import is_first, totals
from spectral_ft.storage import replacing
from spectral_ft.training.arguments import check_amount, optimizer_steps, trainer_arguments
from spectral_ft.training.backward import pretrained, recompute_activations
from spectral_ft.training.checkpoints import Origin, seconds_of, step_of
from spectral_ft.training.head_loss import fused_head_loss
from spectral_ft.training.interruption import signals_noted
from spectral_ft.training.memory import peak_device_bytes, peak_process_bytes
from spectral_ft.training.optimizer import build_optimizer
from spectral_ft.training.seam import LogRow, Rounds, Trained
from spectral_ft.training.settings import TrainingSettings
from spectral_ft.training.sharding import shard_base
from spectral_ft.training.step_record import StepRecord
from spectral_ft.training.trainer import AdapterTrainer, NumberedExamples
from spectral_ft.training.validation import Validation
from spectral_ft.training.watch import TrainingDiverged, Watch
from spectral_ft.types import TrainOutcome

__all__ = ["TrainingDiverged", "optimizer_steps", "seed_everything", "train"]

log = logging.getLogger(__name__)


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch: adapter initialisation, order of examples, dropout.

    Args:
        seed: The run's.
    """
    set_seed(seed)


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
    origin: Origin,
    resume: Path | None,
    log_row: LogRow,
    sampler: Sampler[int] | None = None,
    possible_multipliers: Collection[float] = (),
    validation_loss: Callable[[], float] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    bf16: bool = False,
    fp16: bool = False,
    named: Callable[[int], str] = str,
) -> TrainOutcome:
    """Train the adapters and save them.

    Args:
        trained: The adapted model.
        examples: Sized and indexable; rows of input_ids and labels, with `truncated` and `dropped`.
        collate: Rows to a batch.
        settings: Steps, batch, optimizer, schedule.
        activation_checkpointing: Recompute activations in backward.
        multipliers: Module name to what its learning rate is multiplied by.
        rounds: Asks the policy again.
        seed: Of the order of examples and of dropout.
        folder: The run's: `checkpoints/` while it trains, then `adapter/`.
        origin: What its checkpoints belong to.
        resume: The checkpoint to go on from; None starts.
        log_row: Takes one row of the training log.
        sampler: The order of the examples; None shuffles them.
        possible_multipliers: Those that a later round may give.
        validation_loss: Of the model as it is; asked where `settings.validation_steps` says so.
        callbacks: Told of every step, after this loop's own.
        bf16: Compute products in bfloat16.
        fp16: Compute products in float16, losses scaled.
        named: An example by its place, as a fault calls it.

    Returns:
        What it left and what it cost.

    Raises:
        DataError: If there are fewer examples than one batch, or no validation examples where they are looked at.
        TrainingDiverged: If the loss or the gradient is not finite.
        Interrupted: If somebody asked to stop; a checkpoint was written.
    """
    check_amount(settings, examples=len(examples), any_held_out=validation_loss is not None)
    model = trained.model
    steps = optimizer_steps(settings, len(examples))
    arguments = trainer_arguments(settings, steps=steps, seed=seed, folder=folder / "checkpoints", bf16=bf16, fp16=fp16)
    if activation_checkpointing:
        recompute_activations(model)
    if settings.sharded:
        shard_base(pretrained(model))
    validation = Validation(
        validation_loss or (lambda: float("nan")),
        trained,
        every=settings.validation_steps,
        patience=settings.early_stopping,
        keep=settings.keep_best,
    )
    trainer = AdapterTrainer(
        trained,
        sampler=sampler,
        collate=collate,
        optimizer=lambda wrapped: build_optimizer(wrapped, arguments, multipliers, possible=possible_multipliers),
        sharded=settings.sharded,
        model=model,
        args=arguments,
        train_dataset=NumberedExamples(examples),
    )
    record = StepRecord(resume)
    if resume:
        log.info("resuming the training at %s", resume.name)
        validation.restore(resume)
    with ExitStack() as stack:
        noted = stack.enter_context(signals_noted())
        stack.enter_context(logging_redirect_tqdm())
        if settings.fused_loss:
            stack.enter_context(fused_head_loss(model, collate([examples[0]])))  # whose logits are kept
        watch = Watch(
            trainer,
            trained,
            rounds,
            validation=validation,
            record=record,
            named=named,
            noted=noted,
            log_row=log_row,
            origin=origin,
            done=seconds_of(resume),
        )
        trainer.remove_callback(PrinterCallback)
        for callback in (watch, *callbacks):
            trainer.add_callback(callback)
        try:
            if resume and (step_of(resume) >= steps or validation.stops):
                trainer.take_up(resume)  # the Trainer would take a further step before it looks
            else:
                trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        finally:
            watch.close()
    peaks = peak_process_bytes(), peak_device_bytes()  # of the training, not of what is measured or saved after it
    step = trainer.state.global_step
    if watch.stopped_by is not None:
        raise Interrupted(
            watch.stopped_by,
            f"stopped after step {step} of {steps}, and checkpoint-{step} is written: the same command goes on from "
            "there.",
        )
    validation.put_best_back()
    if is_first():
        with replacing(folder / "adapter", home=folder) as part:
            trained.save(part)
    record.gather()
    tokens = int(trainer.state.num_input_tokens_seen)
    (process_peak,) = totals([float(peaks[0])])
    return TrainOutcome(
        adapter="adapter",
        first_loss=record.losses[0],
        final_loss=record.final_loss,
        steps=step,
        seconds=round(watch.seconds, 3),
        tokens=tokens,
        tokens_per_second=round(tokens / watch.seconds, 1),
        samples_per_second=round(record.examples / watch.seconds, 2),
        peak_memory_bytes=int(process_peak),
        peak_device_bytes=peaks[1],
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        examples=len(examples),
        truncated_examples=examples.truncated,
        dropped_examples=examples.dropped,
        best_step=validation.best_step if settings.keep_best else None,
    )
