"""The options of the training stage."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.errors import ConfigError

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class TrainingSettings:
    """Steps, batch, optimizer and schedule; explained option by option in `conf/training`."""

    epochs: Annotated[float, Field(gt=0)]
    max_steps: Count | None
    batch_size: Count
    micro_batch_size: Count
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
    save_steps: Count
    logging_steps: Count

    def __post_init__(self) -> None:
        """Check the batch sizes against each other.

        Raises:
            ConfigError: If the batch is no multiple of the micro batch.
        """
        if self.batch_size % self.micro_batch_size:
            raise ConfigError(
                f"training.batch_size={self.batch_size} is no multiple of "
                f"training.micro_batch_size={self.micro_batch_size}: choose one that divides it."
            )
