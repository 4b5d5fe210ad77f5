"""The options of the training stage."""

import logging
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.errors import ConfigError

log = logging.getLogger(__name__)
Count = Annotated[int, Field(ge=1)]

RELIED_ON = frozenset({
    # further names of what options of ours say
    *("num_train_epochs", "logging_strategy", "train_sampling_strategy"),
    *("activation_checkpointing", "activation_checkpointing_kwargs"),
    *("gradient_checkpointing", "gradient_checkpointing_kwargs"),
    # `validation.py` looks and keeps
    *("eval_strategy", "eval_on_start", "load_best_model_at_end"),
    # a resumed training would be another one, or none
    *("save_only_model", "save_on_each_node", "enable_jit_checkpoint", "push_to_hub"),
    *("resume_from_checkpoint", "ignore_data_skip", "restore_callback_states_from_checkpoint"),
    # the batch is ours, and the loss is a mean over all of it
    *("auto_find_batch_size", "accelerator_config", "average_tokens_across_devices"),
    # `training.sharded` divides the base
    *("fsdp", "fsdp_config", "deepspeed", "parallelism_config"),
})
"""Arguments of the Trainer that no option of ours sets, and whose own values this stage relies on."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class TrainingSettings:
    """Steps, batch, optimizer and schedule; explained option by option in `conf/training`."""

    epochs: Annotated[float, Field(gt=0)]
    max_steps: Count | None
    batch_size: Count
    micro_batch_size: Count
    batching: Literal["random", "length", "packed"]
    learning_rate: Annotated[float, Field(gt=0)]
    schedule: Literal[
        "linear", "cosine", "cosine_with_min_lr", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"
    ]
    schedule_options: dict[str, Any]
    warmup_steps: Annotated[int, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    optimizer: str
    activation_checkpointing: bool | None
    fused_loss: bool
    sharded: bool
    validation_steps: Count | None
    early_stopping: Count | None
    keep_best: bool
    save_steps: Count
    logging_steps: Count
    trainer_options: dict[str, Any] | None

    def __post_init__(self) -> None:
        """Check the options against each other, and lower a micro batch that is above its batch.

        Raises:
            ConfigError: If the batch is no multiple of the micro batch, something is asked of a validation that is
                never looked at, or a Trainer option has a name of its own here, or would break what this stage does.
        """
        if self.micro_batch_size > self.batch_size:
            log.info(
                "training.micro_batch_size=%d is above training.batch_size=%d: %d examples at a time",
                self.micro_batch_size,
                self.batch_size,
                self.batch_size,
            )
            object.__setattr__(self, "micro_batch_size", self.batch_size)
        if self.batch_size % self.micro_batch_size:
            raise ConfigError(
                f"training.batch_size={self.batch_size} is no multiple of "
                f"training.micro_batch_size={self.micro_batch_size}: choose one that divides it."
            )
        if self.validation_steps is None and (self.early_stopping is not None or self.keep_best):
            asked = "keep_best=true" if self.keep_best else f"early_stopping={self.early_stopping}"
            raise ConfigError(
                f"training.{asked} needs looks at the validation loss: set training.validation_steps, such as "
                f"{self.save_steps}."
            )
        options = self.trainer_options or {}
        if own := sorted(self.own_arguments(steps=1, seed=0, folder="", processes=1).keys() & options.keys()):
            raise ConfigError(
                f"training.trainer_options.{own[0]} would override an option of this stage: set the one in training or "
                "dataset that stands for it (conf/training/_options.yaml)."
            )
        if relied_on := sorted(RELIED_ON & options.keys()):
            raise ConfigError(
                f"training.trainer_options.{relied_on[0]} would change what checkpoints, resuming or batches here rely "
                "on: leave it out (docs/training.md)."
            )
        if self.fused_loss and options.get("label_smoothing_factor"):
            raise ConfigError(
                "training.trainer_options.label_smoothing_factor needs the logits, which training.fused_loss=true does "
                "not keep: set it to false."
            )

    def own_arguments(self, *, steps: int, seed: int, folder: str, processes: int) -> dict[str, Any]:
        """What the Trainer is told in any case.

        Args:
            steps: Optimizer steps.
            seed: Of the order of examples and of dropout.
            folder: Of the checkpoints.
            processes: That train together.

        Returns:
            Its arguments by name. Recomputation is left out: `backward.py` switches it on, with less to recompute.
        """
        return {
            "output_dir": folder,
            "max_steps": steps,
            "per_device_train_batch_size": self.micro_batch_size,
            "gradient_accumulation_steps": self.accumulation(processes),
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": self.schedule,
            "lr_scheduler_kwargs": self.schedule_options,
            "warmup_steps": self.warmup_steps,
            "weight_decay": self.weight_decay,
            "max_grad_norm": self.max_grad_norm,
            "optim": self.optimizer,
            "seed": seed,
            "data_seed": seed,
            "logging_steps": self.logging_steps,
            "logging_first_step": True,
            "logging_nan_inf_filter": False,  # a loss that is no number must be seen
            "save_strategy": "steps",
            "save_steps": self.save_steps,
            "save_total_limit": 2,
            "dataloader_drop_last": False,
            "remove_unused_columns": False,
            "label_names": ["labels"],
            "include_num_input_tokens_seen": "all" if self.batching == "packed" else "non_padding",
            "report_to": [],
            "disable_tqdm": True,  # its bar prints every log line too; ours does not
        }

    def accumulation(self, processes: int) -> int:
        """Micro batches that a process adds up to a step.

        Args:
            processes: That train together.

        Returns:
            The number.

        Raises:
            ConfigError: If the batch cannot be divided evenly among them.
        """
        together = self.micro_batch_size * processes
        if self.batch_size % together:
            raise ConfigError(
                f"training.batch_size={self.batch_size} cannot be divided among {processes} processes in micro batches "
                f"of {self.micro_batch_size}: make it a multiple of {together}, or lower training.micro_batch_size."
            )
        return self.batch_size // together
