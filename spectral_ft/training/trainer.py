"""What the Trainer does otherwise here: order of the examples, form of its checkpoints, a base that is sharded."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainerState

from spectral_ft.training.seam import Trained
from spectral_ft.training.sharding import average_gradients
from spectral_ft.training.trained_state import load_trained, save_trained
from spectral_ft.types import FILL, IGNORED

NUMBERS = "example_numbers"
"""In a batch: which examples it holds."""


@runtime_checkable
class Epochs(Protocol):
    """A sampler whose order depends on the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the order."""
        ...


class NumberedExamples(Dataset[tuple[int, dict[str, Any]]]):
    """Examples that know their place, so that a fault can name them."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[int, dict[str, Any]]:
        if index == FILL:
            two = self._rows[0]["input_ids"][:2]
            return index, {"input_ids": two, "labels": [IGNORED] * len(two)}
        return index, self._rows[index]


class AdapterTrainer(Trainer):
    """Checkpoints hold what is trained, in our form: no copy of the base, ties and allocators kept."""

    def __init__(
        self,
        trained: Trained,
        *,
        sampler: Sampler[int] | None,
        collate: Callable[..., Any],
        optimizer: Callable[[torch.nn.Module], torch.optim.Optimizer],
        sharded: bool,
        **options: Any,
    ) -> None:
        """Begin.

        Args:
            trained: The adapted model.
            sampler: The order of the examples; None shuffles them.
            collate: Rows to a batch.
            optimizer: Makes it, once the model is where it will be trained.
            sharded: Whether the base is divided among the processes.
            **options: Of the Trainer.
        """

        def numbered(rows: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
            # plain numbers stay where they are; a tensor would go to the device and have to be waited for
            return {**collate([row for _, row in rows]), NUMBERS: [number for number, _ in rows]}

        super().__init__(data_collator=numbered, **options)
        if sharded:
            self.is_distributed_loading_by_transformers = True  # so that nothing is wrapped around it again
        self._trained = trained
        self._sampler = sampler
        self._make_optimizer = optimizer
        self.own_optimizer: torch.optim.Optimizer
        """Not wrapped."""
        self.last_losses: list[tuple[list[int], torch.Tensor]] = []
        """Of the micro batches of this step: the examples' numbers and the loss."""
        self.last_norm: torch.Tensor | None = None
        """Of the gradient of this step, before it was clipped; None under fp16, whose scaler skips what is infinite."""

    def _sync_replicated_trainable_parameters(self, model: torch.nn.Module) -> None:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        average_gradients(trained, at_end_of_step=lambda: bool(self.accelerator.sync_gradients))

    def _defer_fsdp_gradient_reduction(self) -> Any:
        return nullcontext()  # the base, which is what is sharded, has no gradient

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self._sampler or super()._get_train_sampler(train_dataset)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make the optimizer over the plan's groups.

        Args:
            model: As the Trainer gives it where parameters are sharded.

        Returns:
            The optimizer.
        """
        if self.optimizer is None:
            self.optimizer = self.own_optimizer = self._make_optimizer(self._trained.model if model is None else model)
        return self.optimizer

    def take_up(self, checkpoint: Path) -> None:
        """Be where a training was that had ended already.

        Args:
            checkpoint: Its last one.
        """
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))

    def begin_epoch(self, epoch: int) -> None:
        """Choose the order of the examples.

        Args:
            epoch: From 0.
        """
        if isinstance(self._sampler, Epochs):
            self._sampler.set_epoch(epoch)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One micro batch, its numbers and loss noted.

        Args:
            model: Wrapped as the Trainer wraps it.
            inputs: The batch.
            num_items_in_batch: Labels of the whole step.

        Returns:
            The loss.
        """
        numbers = inputs.pop(NUMBERS)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.last_losses.append((numbers, loss.detach()))
        return loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # computed where nothing is clipped, too
        self.last_norm = None if self.accelerator.scaler is not None else torch.as_tensor(norm)
        return norm

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        del state_dict
        save_trained(self._trained.model, self._trained.state(), Path(str(output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        del model
        self._trained.restore(load_trained(self._trained.model, Path(resume_from_checkpoint)))
