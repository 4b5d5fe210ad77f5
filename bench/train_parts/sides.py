"""The contenders: each loads the model, adapts it and sets up a Trainer in its own way."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from transformers import Trainer, TrainingArguments, set_seed

from spectral_ft.stages.base import base_model, load_base
from spectral_ft.stages.spectrum import report_of_shapes
from spectral_ft.training.backward import recompute_activations
from spectral_ft.training.head_loss import fused_head_loss
from spectral_ft.training.optimizer import build_optimizer
from train_parts.jobs import SEED, AfterStep, Job, collate
from train_parts.stock import load_stock, schedule, stock_model, tiers


class Side(NamedTuple):
    """A contender."""

    load: Callable[[Job], Any]
    """The base."""
    trainer: Callable[[Job, Any, list[dict[str, list[int]]]], Trainer]
    """Job, base and data to what trains."""


_OPEN = ExitStack()
"""What stays as it is until the process of a contender ends."""


def _load_ours(job: Job) -> Any:
    experiment = job.experiment
    return load_base(experiment, experiment.model.locate())


def _our_trainer(job: Job, model: Any, data: list[dict[str, list[int]]]) -> Trainer:
    experiment, plan = job.experiment, job.allocation
    checkpoint = experiment.model.locate()
    shapes = report_of_shapes("bench", checkpoint, experiment.spectrum)
    base = base_model(experiment, checkpoint, tuple(spectrum.matrix for spectrum in shapes.matrices))
    set_seed(SEED)
    adapted = experiment.method.adapt(model, plan, base=base, steps=job.steps, probe=None)
    if job.checkpointing:
        recompute_activations(adapted.model)
    _OPEN.enter_context(fused_head_loss(adapted.model, collate(data[:1])))
    arguments = TrainingArguments(**job.settings(checkpointing=False))
    optimizer = build_optimizer(adapted.model, arguments, {a.name: a.lr_multiplier for a in plan.adapted})
    return Trainer(
        model=adapted.model,
        args=arguments,
        train_dataset=data,  # type: ignore[arg-type]  # sized and indexable is enough
        data_collator=collate,
        optimizers=(optimizer, None),
        callbacks=[AfterStep(adapted.after_step)],
    )


def _stock_trainer(job: Job, model: Any, data: list[dict[str, list[int]]]) -> Trainer:
    adapted = stock_model(job, model)
    arguments = TrainingArguments(**job.settings(checkpointing=job.checkpointing))
    return Trainer(
        model=adapted,
        args=arguments,
        train_dataset=data,  # type: ignore[arg-type]
        data_collator=collate,
        optimizers=(tiers(adapted, job.allocation.adapted, arguments), None),
        callbacks=schedule(adapted),
    )


def _trl_trainer(job: Job, model: Any, data: list[dict[str, list[int]]]) -> Trainer:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from spectral_ft.models.loading import load_tokenizer

    adapted = stock_model(job, model)
    settings = job.settings(checkpointing=job.checkpointing)
    settings["gradient_checkpointing"] = settings.pop("activation_checkpointing")  # its own default would be true
    arguments = SFTConfig(**settings, dataset_kwargs={"skip_prepare_dataset": True})
    return SFTTrainer(
        model=adapted,
        args=arguments,
        train_dataset=Dataset.from_list(data),
        data_collator=collate,
        processing_class=load_tokenizer(Path(job.folder), trust_remote_code=False),
        optimizers=(tiers(adapted, job.allocation.adapted, arguments), None),
        callbacks=schedule(adapted),
    )


SIDES = {
    "ours": Side(_load_ours, _our_trainer),
    "stock": Side(load_stock, _stock_trainer),
    "trl": Side(load_stock, _trl_trainer),
}
"""By name: this package; PEFT and Trainer as their documentation sets them up; the same under TRL's trainer."""
