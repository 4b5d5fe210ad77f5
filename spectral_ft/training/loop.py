"""What the Trainer does otherwise here: the order of the examples, the form of its checkpoints, what it watches."""

import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from spectral_ft.errors import SpectralFTError
from spectral_ft.processes import is_first, totals
from spectral_ft.training.backward import watched_backward
from spectral_ft.training.checkpoints import Origin, mark_whole
from spectral_ft.training.held_out import IGNORED
from spectral_ft.training.interruption import Noted
from spectral_ft.training.sharding import average_gradients
from spectral_ft.training.trained_state import load_trained, save_trained
from spectral_ft.training.validation import Validation

log = logging.getLogger(__name__)
LogRow = Callable[[dict[str, Any]], None]
NUMBERS = "example_numbers"
"""In a batch: which examples it holds."""


class TrainingDiverged(SpectralFTError):  # noqa: N818 - reads as what happened
    """The loss is no longer a number."""


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
        if index < 0:  # fills the last batch of several processes
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

        def numbered(rows: list[tuple[int, dict[str, Any]]]) -> dict[str, torch.Tensor]:
            batch = collate([row for _, row in rows])
            return {**batch, NUMBERS: torch.tensor([number for number, _ in rows])}

        super().__init__(data_collator=numbered, **options)
        if sharded:
            self.is_distributed_loading_by_transformers = True  # so that nothing is wrapped around it again
        self._trained = trained
        self._sampler = sampler
        self._make_optimizer = optimizer
        self.own_optimizer: torch.optim.Optimizer
        """Not wrapped."""
        self.last_losses: list[tuple[torch.Tensor, torch.Tensor]] = []
        """Of the micro batches of this step: the examples' numbers and the loss."""

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

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        del state_dict
        save_trained(self._trained.model, self._trained.state(), Path(str(output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        del model
        self._trained.restore(load_trained(self._trained.model, Path(resume_from_checkpoint)))


class Watch(TrainerCallback):
    """Shows progress, passes the log on, stops where it must, lets method and rounds act after a step."""

    def __init__(
        self,
        trained: Trained,
        rounds: Rounds,
        validation: Validation,
        noted: Noted,
        log_row: LogRow,
        *,
        origin: Origin,
        done: float,
    ) -> None:
        self.trainer: AdapterTrainer | None = None
        self.stopped_by: int | None = None
        """Number of the signal that ended the training early."""
        self._trained = trained
        self._rounds = rounds
        self._validation = validation
        self._noted = noted
        self._log_row = log_row
        self._origin = origin
        self._done = done
        self._began = time.perf_counter()
        self._bar: tqdm[Any] | None = None
        self._hooks = ExitStack()
        self._path = self._hooks.enter_context(watched_backward(trained.model))

    @property
    def seconds(self) -> float:
        """In the training loop, over all resumptions."""
        return self._done + time.perf_counter() - self._began

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the bar."""
        del args, control, kwargs
        self._began = time.perf_counter()
        self._bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="training",
            unit="step",
            leave=False,
            disable=not is_first(),
        )

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the sampler its epoch: with several processes a resumption within an epoch does not."""
        del args, control, kwargs
        assert self.trainer is not None
        self.trainer.begin_epoch(int(state.epoch or 0))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop before a loss that is no number reaches the weights.

        Args:
            args: Not used.
            state: With the number of finished steps.
            control: Not used.
            **kwargs: Not used.

        Raises:
            TrainingDiverged: If it is none.
        """
        del args, control, kwargs
        assert self.trainer is not None
        if self._path.passed:
            log.info("%s", self._path.sentence)
            self._hooks.close()
            self._path.passed = []
        losses, self.trainer.last_losses = self.trainer.last_losses, []
        if bool(torch.stack([loss for _, loss in losses]).isfinite().all()):
            return
        number, loss = next((number, loss) for number, loss in losses if not loss.isfinite())
        raise TrainingDiverged(
            f"the training loss is {loss.item()} at step {state.global_step + 1}, in the micro batch of training "
            f"examples {', '.join(str(n) for n in number.tolist())} (counted from 0): lower training.learning_rate, "
            "or look for a broken example or weight."
        )

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let method and rounds act."""
        del args, control, kwargs
        assert self.trainer is not None
        step = state.global_step + 1  # the Trainer counts it later
        self._trained.after_step(step)
        self._rounds.after_step(step, self.trainer.own_optimizer)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look at the validation loss; end where somebody asked for it."""
        del args, kwargs
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)
        loss = self._validation.after_step(state.global_step)
        if loss is not None:
            self._log_row({**self._place(state), "validation_loss": loss})
        if self._validation.stops:
            log.info("step %d: the validation loss has not fallen for long enough", state.global_step)
            control.should_training_stop = True
        self.stopped_by = self._noted.by_all()
        if self.stopped_by is not None:
            control.should_save = control.should_training_stop = True

    def close(self) -> None:
        """Take the bar away."""
        self._hooks.close()
        if self._bar is not None:
            self._bar.close()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Pass a row on.

        Args:
            args: Not used.
            state: With the number of finished steps.
            control: Not used.
            **kwargs: With the row.

        Raises:
            TrainingDiverged: If the mean loss since the last row is no number.
        """
        del args, control
        logs = kwargs["logs"]
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise TrainingDiverged(
                f"the training loss is {logs['loss']} at step {state.global_step}: lower training.learning_rate, "
                "or look for a broken example or weight."
            )
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)
        wanted = ("loss", "grad_norm", "learning_rate")
        self._log_row({**self._place(state), **{key: logs[key] for key in wanted if key in logs}})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write what is ours into a checkpoint, and that it is whole."""
        del control, kwargs
        checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        totals([0.0])  # every process has written its random state
        if is_first():
            self._rounds.write(checkpoint)
            self._validation.write(checkpoint)
            mark_whole(checkpoint, step=state.global_step, seconds=self.seconds, origin=self._origin)

    def _place(self, state: TrainerState) -> dict[str, Any]:
        return {"step": state.global_step, "epoch": round(state.epoch or 0, 4), "seconds": round(self.seconds, 2)}
