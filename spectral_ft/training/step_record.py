"""What each step's loss was and how many examples have been learnt from: over all processes, and through every cut.

The Trainer adds up the losses between two rows of its log and forgets them where it is cut. Here each step's loss is
kept, and written into each checkpoint, so that rows and means are those of a training that was never cut.
"""

import json
from pathlib import Path
from typing import Any

from spectral_ft.processes import process_count, totals
from spectral_ft.storage import write_json

FILE = "steps.json"


class StepRecord:
    """Losses and examples so far."""

    def __init__(self, checkpoint: Path | None) -> None:
        """Begin.

        Args:
            checkpoint: To go on from; None starts.
        """
        told = json.loads((checkpoint / FILE).read_text()) if checkpoint else {}
        self.losses: list[float] = told.get("losses", [])
        """Of each step, a mean over the processes; complete after `gather`."""
        self.examples: int = told.get("examples", 0)
        """That were learnt from, as often as they were; complete after `gather`."""
        self.rows: list[dict[str, Any]] = told.get("rows", [])
        """Of the training log: the log itself grows line by line, and nothing says what it should hold."""
        self._in_rows: int = told.get("in_rows", 0)  # steps that rows of the log have told of
        self._own: list[float] = []  # what only this process knows
        self._own_examples = 0

    def add(self, loss: float, examples: int) -> None:
        """Note a step.

        Args:
            loss: This process's.
            examples: That this process learnt from.
        """
        self._own.append(loss)
        self._own_examples += examples

    def gather(self) -> None:
        """Add up what the processes know; each calls this at the same step."""
        *losses, examples = totals([*self._own, float(self._own_examples)])
        self.losses += [loss / process_count() for loss in losses]
        self.examples += int(examples)
        self._own, self._own_examples = [], 0

    def row(self) -> float:
        """The loss of the next row of the log; each process asks at the same step.

        Returns:
            The mean over the steps since the last row.
        """
        self.gather()
        new, self._in_rows = self.losses[self._in_rows :], len(self.losses)
        return sum(new) / len(new)

    @property
    def final_loss(self) -> float:
        """The mean over the last tenth of the steps, of one at least."""
        last = self.losses[-max(1, len(self.losses) // 10) :]
        return sum(last) / len(last)

    def write(self, checkpoint: Path) -> None:
        """Write what is needed to go on, after `gather`.

        Args:
            checkpoint: Folder.
        """
        state = {"losses": self.losses, "examples": self.examples, "in_rows": self._in_rows, "rows": self.rows}
        write_json(checkpoint / FILE, state)
