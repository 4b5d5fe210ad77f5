"""Losses on held-out examples in mid-training: stop when they no longer fall, keep the best weights.

The best weights stay in memory (they are what is trained, not the base), with what the method keeps beside them, and
are written into each checkpoint, so that a cut training ends with the same ones.
"""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils._pytree import tree_map_only

from spectral_ft.storage import write_json
from spectral_ft.training.seam import Trained
from spectral_ft.training.trained_state import trained_tensors

log = logging.getLogger(__name__)
FILE, WEIGHTS, STATE = "validation.json", "best.safetensors", "best.pt"


class Validation:
    """What the held-out loss has been so far, and what follows from it."""

    def __init__(
        self, loss: Callable[[], float], trained: Trained, *, every: int | None, patience: int | None, keep: bool
    ) -> None:
        """Begin.

        Args:
            loss: Of the model as it is, a token.
            trained: The adapted model.
            every: Optimizer steps between two looks; None never looks.
            patience: Looks without a better loss after which training stops; None never stops it.
            keep: Whether the best weights are put back at the end.
        """
        self._loss = loss
        self._trained = trained
        self._every = every
        self._patience = patience
        self._keep = keep
        self.best_loss = math.inf
        self.best_step = 0
        self._worse = 0
        self._best: dict[str, torch.Tensor] = {}
        self._best_state: dict[str, Any] = {}

    def after_step(self, step: int) -> float | None:
        """Look, where it is time.

        Args:
            step: Number of finished optimizer steps.

        Returns:
            The loss; None where it was not time.
        """
        if self._every is None or step % self._every:
            return None
        loss = self._loss()
        if loss < self.best_loss:
            self.best_loss, self.best_step, self._worse = loss, step, 0
            if self._keep:
                kept = trained_tensors(self._trained.model)
                self._best, self._best_state = _copied(dict(kept)), _copied(self._trained.state())
        else:
            self._worse += 1
        return loss

    @property
    def stops(self) -> bool:
        """Whether patience has ended."""
        return self._patience is not None and self._worse >= self._patience

    def put_best_back(self) -> None:
        """Give the model its best weights, and the method its state of that step, where they are kept."""
        if not self._best:
            return
        with torch.no_grad():
            for name, parameter in trained_tensors(self._trained.model).items():
                parameter.copy_(self._best[name])
        self._trained.restore(self._best_state)
        log.info(
            "the best weights are those of step %d, with a validation loss of %.4f", self.best_step, self.best_loss
        )

    def write(self, checkpoint: Path) -> None:
        """Write what is needed to go on.

        Args:
            checkpoint: Folder.
        """
        if self._every is None:
            return
        best = self.best_loss if math.isfinite(self.best_loss) else None
        write_json(checkpoint / FILE, {"best_loss": best, "best_step": self.best_step, "worse": self._worse})
        if self._best:
            save_file({name: tensor.contiguous() for name, tensor in self._best.items()}, checkpoint / WEIGHTS)
            torch.save(self._best_state, checkpoint / STATE)

    def restore(self, checkpoint: Path) -> None:
        """Take what `write` wrote.

        Args:
            checkpoint: Folder.
        """
        if self._every is None:
            return
        told = json.loads((checkpoint / FILE).read_text())
        self.best_loss = math.inf if told["best_loss"] is None else told["best_loss"]
        self.best_step, self._worse = told["best_step"], told["worse"]
        if (checkpoint / WEIGHTS).exists():
            self._best = load_file(checkpoint / WEIGHTS)
            self._best_state = torch.load(checkpoint / STATE, weights_only=True)


def _copied(values: dict[str, Any]) -> dict[str, Any]:
    # On the CPU, where further steps do not reach it.
    copied: dict[str, Any] = tree_map_only(torch.Tensor, lambda tensor: tensor.detach().cpu().clone(), values)
    return copied
