"""What watches a training: progress, the log, the losses, and everything that may stop it."""

import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from spectral_ft.errors import SpectralFTError
from spectral_ft.processes import is_first
from spectral_ft.training.backward import BackwardPath, watched_backward
from spectral_ft.training.checkpoints import Origin, mark_whole
from spectral_ft.training.interruption import Noted
from spectral_ft.training.memory import forget_peaks
from spectral_ft.training.seam import LogRow, Rounds, Trained
from spectral_ft.training.step_record import StepRecord
from spectral_ft.training.trainer import AdapterTrainer
from spectral_ft.training.validation import Validation
from spectral_ft.types import FILL

log = logging.getLogger(__name__)
REFRESH = 0.5
"""Seconds between two looks of the bar, so that it costs a step of some milliseconds nothing."""
NAMED = 16
"""Rows that a fault names, at most."""


class TrainingDiverged(SpectralFTError):  # noqa: N818 - reads as what happened
    """The loss or its gradient is no longer a number."""


class Watch(TrainerCallback):
    """Shows progress, passes the log on, stops where it must, lets method and rounds act after a step."""

    def __init__(
        self,
        trainer: AdapterTrainer,
        trained: Trained,
        rounds: Rounds,
        *,
        validation: Validation,
        record: StepRecord,
        named: Callable[[int], str],
        noted: Noted,
        log_row: LogRow,
        origin: Origin,
        done: float,
    ) -> None:
        self._trainer = trainer
        self.stopped_by: int | None = None
        """Number of the signal that ended the training early."""
        self._trained = trained
        self._rounds = rounds
        self._validation = validation
        self._record = record
        self._named = named
        self._noted = noted
        self._log_row = log_row
        self._origin = origin
        self._done = done
        self._began = time.perf_counter()
        self._bar: tqdm[Any] | None = None
        self._hooks = ExitStack()
        self._path: BackwardPath | None = self._hooks.enter_context(watched_backward(trained.model))

    @property
    def seconds(self) -> float:
        """In the training loop, over all resumptions."""
        return self._done + time.perf_counter() - self._began

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the bar; count time and memory from here."""
        del args, control, kwargs
        forget_peaks()
        self._began = time.perf_counter()
        self._bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="training",
            unit="step",
            leave=False,
            mininterval=REFRESH,
            disable=not is_first(),
        )

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the sampler its epoch: with several processes a resumption within an epoch does not."""
        del args, control, kwargs
        self._trainer.begin_epoch(int(state.epoch or 0))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop before a loss or a gradient that is no number reaches the weights.

        Args:
            args: Not used.
            state: With the number of finished steps.
            control: Not used.
            **kwargs: Not used.

        Raises:
            TrainingDiverged: If one of them is none.
        """
        del args, control, kwargs
        if self._path is not None:
            log.info("%s", self._path.sentence)
            self._hooks.close()
            self._path = None  # told once
        losses, self._trainer.last_losses = self._trainer.last_losses, []
        of_step = [loss.float() for _, loss in losses]
        norm = self._trainer.last_norm
        if norm is not None:
            of_step.append(norm.to(of_step[0]))
        values = torch.stack(of_step).tolist()  # waits for the device, once a step
        if all(map(math.isfinite, values)):
            examples = sum(number != FILL for numbers, _ in losses for number in numbers)
            self._record.add(sum(values[: len(losses)]), examples)
            return
        culprits, what = losses, f"the norm of the gradient is {values[-1]}"
        for micro_batch, value in zip(losses, values, strict=False):
            if not math.isfinite(value):
                culprits, what = [micro_batch], f"the training loss is {value}"
                break
        numbers = [number for numbers, _ in culprits for number in numbers if number != FILL]
        rows = ", ".join(map(self._named, numbers[:NAMED]))
        more = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
        raise TrainingDiverged(
            f"{what} at step {state.global_step + 1}, in the {'micro batch' if len(culprits) == 1 else 'batch'} of "
            f"training rows {rows}{more} (counted from 0): lower training.learning_rate, or look for a broken "
            "example or weight."
        )

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let method and rounds act."""
        del args, control, kwargs
        step = state.global_step + 1  # the Trainer counts it later
        self._trained.after_step(step)
        self._rounds.after_step(step, self._trainer.own_optimizer)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look at the validation loss; end where somebody asked for it; a training that ends has a last row."""
        del args, kwargs
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)
        loss = self._validation.after_step(state.global_step)
        if loss is not None:
            self._tell({**self._place(state), "validation_loss": loss})
        if self._validation.stops:
            log.info("step %d: the validation loss has not fallen for long enough", state.global_step)
            control.should_training_stop = True
        if self._validation.stops or state.global_step >= state.max_steps:
            control.should_log = True
        self.stopped_by = self._noted.by_all()
        if self.stopped_by is not None:
            control.should_save = control.should_training_stop = True

    def close(self) -> None:
        """Take the bar away."""
        self._hooks.close()
        if self._bar is not None:
            self._bar.close()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Pass a row on."""
        del args, control
        logs = kwargs["logs"]
        if "loss" not in logs:
            return
        loss = self._record.row()
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        wanted = ("grad_norm", "learning_rate")
        self._tell({**self._place(state), "loss": loss, **{key: logs[key] for key in wanted if key in logs}})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write what is ours into a checkpoint, and that it is whole."""
        del control, kwargs
        checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        self._record.gather()  # and with it, every process has written its random state
        if is_first():
            self._record.write(checkpoint)
            self._rounds.write(checkpoint)
            self._validation.write(checkpoint)
            mark_whole(checkpoint, step=state.global_step, seconds=self.seconds, origin=self._origin)

    def _tell(self, row: dict[str, Any]) -> None:
        self._record.rows.append(row)
        self._log_row(row)

    def _place(self, state: TrainerState) -> dict[str, Any]:
        return {"step": state.global_step, "epoch": round(state.epoch or 0, 4), "seconds": round(self.seconds, 2)}
