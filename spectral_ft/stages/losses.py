"""The losses that every training is seen by: held-out examples of its task, and text that has nothing to do with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_ft.machine import free_memory
from spectral_ft.processes import process_count, process_index, totals
from spectral_ft.stages.examples import Tokenised
from spectral_ft.storage import stored
from spectral_ft.types import HeldOutLoss

if TYPE_CHECKING:
    import torch

    from spectral_ft.training.held_out import Loss

FILE = "losses.json"
"""In a run's folder: what the base model's losses were."""


ROWS_PACKED, ROWS_ON_GPU = 16, 64
"""Rows at a time: on a CPU whose base is dequantized at every product, and at most on a GPU."""


def rows_at_a_time(model: "torch.nn.Module", *, length: int, micro_batch_size: int) -> int:
    """Held-out rows that go through a model together.

    Args:
        model: On its device.
        length: Tokens of the longest row.
        micro_batch_size: Of the training.

    Returns:
        On a GPU as many as fit into its free memory, a power of two; on a CPU the micro batch, beyond which nothing is
        gained, or more where every batch dequantizes the whole base.
    """
    from spectral_ft.evaluation.batching import items_at_once
    from spectral_ft.models.dequantized import is_packed

    base: Any = model
    if base.device.type == "cpu":
        return max(micro_batch_size, ROWS_PACKED) if is_packed(model) else micro_batch_size
    fitting = items_at_once(
        base.config.get_text_config(),
        length=length,
        with_logits=length,
        beams=1,
        entry=base.dtype.itemsize,
        free=free_memory(base.device),
        largest=ROWS_ON_GPU,
    )
    return max(micro_batch_size, fitting)


class HeldOutLosses:
    """Both losses of a model while it is trained; each process measures a part."""

    def __init__(self, rows: Tokenised, *, batch_size: int, divided: bool, mixed: "torch.dtype | None" = None) -> None:
        """Begin.

        Args:
            rows: With the held-out ones.
            batch_size: Rows at a time.
            divided: Each process measures a part of the rows. A sharded model needs all processes for each batch, so
                there each measures all.
            mixed: What products are computed in, as in training; None: the dtypes of their factors.
        """
        self._parts = process_count() if divided else 1
        self._rows = {
            "validation": rows.validation.rows if rows.validation else [],
            "general": rows.general,
        }
        self._collate = rows.collate
        self._batch_size = batch_size
        self._mixed = mixed

    def before(self, model: "torch.nn.Module", folder: Path) -> Mapping[str, tuple[float, int]]:
        """The base model's, measured once a run.

        Args:
            model: The base.
            folder: Of the run.

        Returns:
            Name to mean and tokens; without what has no rows.
        """

        def make() -> dict[str, tuple[float, int]]:
            found = {name: self.of(model, name) for name, rows in self._rows.items() if rows}
            return {name: (loss.mean, loss.tokens) for name, loss in found.items()}

        return stored(folder / FILE, dict[str, tuple[float, int]], make)

    def changes(self, before: Mapping[str, tuple[float, int]], model: "torch.nn.Module") -> Mapping[str, HeldOutLoss]:
        """Before and after.

        Args:
            before: As `before` gave it.
            model: Trained.

        Returns:
            Name to both; without what has no rows.
        """
        return {name: HeldOutLoss(mean, self.of(model, name).mean, tokens) for name, (mean, tokens) in before.items()}

    def of(self, model: "torch.nn.Module", name: str) -> "Loss":
        """One of them.

        Args:
            model: As it is.
            name: `validation` or `general`.

        Returns:
            The loss, over the rows of all processes.
        """
        from spectral_ft.models.device import autocast
        from spectral_ft.training.held_out import Loss, mean_loss

        # By length, so that the parts take equally long.
        rows = sorted(self._rows[name], key=lambda row: len(row["input_ids"]))
        rows = rows[process_index() % self._parts :: self._parts]
        with autocast(self._mixed, next(model.parameters()).device):
            own = mean_loss(model, rows, self._collate, batch_size=self._batch_size)
        total, tokens = totals([own.total, float(own.tokens)])
        measured_by = process_count() // self._parts
        return Loss(total / measured_by, int(tokens) // measured_by)

    @property
    def has_validation(self) -> bool:
        """Whether any example is held out."""
        return bool(self._rows["validation"])
