"""Who takes part in a training loop, as the loop sees them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

LogRow = Callable[[dict[str, Any]], None]
"""Takes one row of the training log."""


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
