"""What every contender of a row is told: plan, model, and the arguments of the training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback

from spectral_ft.compose import build_experiment, composed
from spectral_ft.experiment import Experiment
from spectral_ft.storage import read_json
from spectral_ft.types import AllocationPlan

SEED = 0
LEARNING_RATE, CLIPPED_AT = 3e-4, 1.0


class Rows(list[dict[str, list[int]]]):
    """Training examples as the training loop takes them: none was cut, none left out."""

    truncated = dropped = 0


class Job(NamedTuple):
    """What every contender of a row is told."""

    overrides: list[str]
    plan: str
    """Its file."""
    folder: str
    """Of the model."""
    checkpointing: bool
    steps: int
    batch: int

    @property
    def experiment(self) -> Experiment:
        """Its components, with the settings that the others get from `settings`."""
        training = {
            "max_steps": self.steps,
            "batch_size": self.batch,
            "micro_batch_size": self.batch,
            "learning_rate": LEARNING_RATE,
            "max_grad_norm": CLIPPED_AT,
            "warmup_steps": 0,
            "logging_steps": 1,
            "save_steps": self.steps + 1,
        }
        return build_experiment(
            composed([*self.overrides, "training=published", *(f"training.{k}={v}" for k, v in training.items())])
        )

    @property
    def allocation(self) -> AllocationPlan:
        """What each matrix gets."""
        return read_json(Path(self.plan), AllocationPlan)

    def settings(self, *, checkpointing: bool) -> dict[str, Any]:
        """The arguments of the training, which all have in common but the way to recompute.

        Args:
            checkpointing: What the Trainer shall see to.

        Returns:
            Of `TrainingArguments`.
        """
        return {
            "output_dir": str(Path(self.plan).parent / "out"),
            "max_steps": self.steps,
            "per_device_train_batch_size": self.batch,
            "learning_rate": LEARNING_RATE,
            "max_grad_norm": CLIPPED_AT,
            "optim": "adamw_torch",
            "seed": SEED,
            "data_seed": SEED,
            "bf16": False,
            "logging_steps": 1,
            "save_strategy": "no",
            "remove_unused_columns": False,
            "label_names": ["labels"],
            "report_to": [],
            "disable_tqdm": True,
            "activation_checkpointing": checkpointing,
        }


def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Rows of one length to a batch.

    Args:
        rows: Of one batch.

    Returns:
        Tensors of shape (rows, tokens).
    """
    return {key: torch.tensor([row[key] for row in rows]) for key in rows[0]}


class AfterStep(TrainerCallback):
    """Calls what a method does after an optimizer step, with the number of finished steps.

    Args:
        act: What it does.
    """

    def __init__(self, act: Callable[[int], None]) -> None:
        self._act = act

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Gradients are still there."""
        self._act(state.global_step + 1)
