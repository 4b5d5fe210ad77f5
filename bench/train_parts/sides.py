"""The contenders: each loads the model, adapts it and trains it in its own way."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from spectral_ft.data.collation import PaddedBatch
from spectral_ft.stages.base import base_model, load_base
from spectral_ft.stages.spectrum import report_of_shapes
from spectral_ft.training.checkpoints import Origin
from spectral_ft.training.head_loss import fused_head_loss
from spectral_ft.training.train import train
from train_parts.jobs import SEED, Job, Rows, collate
from train_parts.stock import load_stock, schedule, stock_model, tiers


class Done(NamedTuple):
    """A contender after its training."""

    model: torch.nn.Module
    losses: list[float]
    """Of every step."""
    passing: AbstractContextManager[Any]
    """In which it computes a step as it did while it trained."""


class Side(NamedTuple):
    """A contender."""

    load: Callable[[Job], Any]
    """The base."""
    train: Callable[[Job, Any, Rows, TrainerCallback], Done]
    """With job, base and data, under the eyes of a callback."""


class _NoRounds:
    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """The policy is not asked again."""

    def write(self, checkpoint: Path) -> None:
        """Nothing is kept."""


def _load_ours(job: Job) -> Any:
    experiment = job.experiment
    return load_base(experiment, experiment.model.locate())


def _train_ours(job: Job, model: Any, data: Rows, eyes: TrainerCallback) -> Done:
    experiment, plan = job.experiment, job.allocation
    checkpoint = experiment.model.locate()
    shapes = report_of_shapes("bench", checkpoint, experiment.spectrum)
    base = base_model(experiment, checkpoint, tuple(spectrum.matrix for spectrum in shapes.matrices))
    set_seed(SEED)
    adapted = experiment.method.adapt(model, plan, base=base, steps=job.steps, probe=None)
    log: list[dict[str, Any]] = []
    train(
        adapted,
        data,
        PaddedBatch(pad_token_id=0),  # nothing is padded
        experiment.training,
        activation_checkpointing=job.checkpointing,
        multipliers={a.name: a.lr_multiplier for a in plan.adapted},
        rounds=_NoRounds(),
        seed=SEED,
        folder=Path(job.plan).parent / "ours",
        origin=Origin("bench", "bench", {}, code="bench", commit=None, processes=1),
        resume=None,
        log_row=log.append,
        callbacks=[eyes],
    )
    passing = fused_head_loss(adapted.model, collate(data[:1]))
    return Done(adapted.model, [row["loss"] for row in log], passing)


def _train_stock(job: Job, model: Any, data: Rows, eyes: TrainerCallback) -> Done:
    adapted = stock_model(job, model)
    arguments = TrainingArguments(**job.settings(checkpointing=job.checkpointing))
    return _trained(
        Trainer(
            model=adapted,
            args=arguments,
            train_dataset=data,  # type: ignore[arg-type]  # sized and indexable is enough
            data_collator=collate,
            optimizers=(tiers(adapted, job.allocation.adapted, arguments), None),
            callbacks=schedule(adapted),
        ),
        eyes,
    )


def _train_trl(job: Job, model: Any, data: Rows, eyes: TrainerCallback) -> Done:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from spectral_ft.models.loading import load_tokenizer

    adapted = stock_model(job, model)
    settings = job.settings(checkpointing=job.checkpointing)
    settings["gradient_checkpointing"] = settings.pop("activation_checkpointing")  # its own default would be true
    arguments = SFTConfig(**settings, dataset_kwargs={"skip_prepare_dataset": True})
    return _trained(
        SFTTrainer(
            model=adapted,
            args=arguments,
            train_dataset=Dataset.from_list(list(data)),
            data_collator=collate,
            processing_class=load_tokenizer(Path(job.folder), trust_remote_code=False),
            optimizers=(tiers(adapted, job.allocation.adapted, arguments), None),
            callbacks=schedule(adapted),
        ),
        eyes,
    )


def _trained(trainer: Trainer, eyes: TrainerCallback) -> Done:
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(eyes)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return Done(trainer.model, losses, nullcontext())


SIDES = {
    "ours": Side(_load_ours, _train_ours),
    "stock": Side(load_stock, _train_stock),
    "trl": Side(load_stock, _train_trl),
}
"""By name: this package; PEFT and Trainer as their documentation sets them up; the same under TRL's trainer."""
