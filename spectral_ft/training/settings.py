"""The options of the training stage."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.errors import ConfigError

Count = Annotated[int, Field(ge=1)]

OWN = frozenset({
    "output_dir",
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "activation_checkpointing",
    "gradient_checkpointing",
    "seed",
    "data_seed",
    "logging_steps",
    "logging_strategy",
    "save_strategy",
    "save_steps",
    "report_to",
    "train_sampling_strategy",
    "label_names",
    "remove_unused_columns",
    "resume_from_checkpoint",
    "load_best_model_at_end",
    "eval_strategy",
    "dataloader_drop_last",
})
"""Arguments of the Trainer that an option of ours sets."""


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
        """Check the options against each other.

        Raises:
            ConfigError: If the batch is no multiple of the micro batch, something is asked of a validation that is
                never looked at, or a Trainer option has a name of its own here.
        """
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
        if own := sorted(OWN & (self.trainer_options or {}).keys()):
            raise ConfigError(
                f"training.trainer_options.{own[0]} would override an option of this stage: set the one in training or "
                "dataset that stands for it (conf/training/_options.yaml)."
            )

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
