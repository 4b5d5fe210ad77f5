"""Where a run's rows go: local JSON lines always, Weights & Biases beside them.

Local files are the source of truth; W&B mirrors them and nothing reads its files back.
"""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Takes rows while a run goes on."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Take one row of the training log; it has a `step`."""
        ...

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Take the numbers that a run ends with."""
        ...

    def close(self) -> None:
        """Nothing comes after this."""
        ...


class JsonLines:
    """Rows as lines of a file; a resumed training drops the rows beyond its checkpoint."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row; what a cut training left of this step or of later ones goes first.

        Args:
            row: With a `step`; a step may have several rows, each with other values.
        """
        kept = [line for line in self._lines() if line["step"] < row["step"] or _complement(line, row)]
        text = "".join(json.dumps(line) + "\n" for line in [*kept, dict(row)])
        part = self._path.with_suffix(".part")
        part.write_text(text)
        part.replace(self._path)

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Nothing: the summary is the run's own record.

        Args:
            values: Not used.
        """

    def close(self) -> None:
        """Nothing to close."""

    def _lines(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        rows = []
        for line in self._path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                log.warning("%s: dropping a line that was cut", self._path.name)
        return rows


class Silent:
    """Takes everything and keeps nothing: of a process that is not the first of its run."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Nothing.

        Args:
            row: Not kept.
        """

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Nothing.

        Args:
            values: Not kept.
        """

    def close(self) -> None:
        """Nothing to close."""


def _complement(line: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    # Two rows of one step that say different things: the loss, and the validation loss.
    return bool(line["step"] == row["step"] and not (line.keys() & row.keys()) - {"step", "epoch", "seconds"})


class WandbRun:
    """A W&B run; any fault of W&B is logged once and never stops the work."""

    def __init__(self, options: "Tracking", *, run_id: str, config: Mapping[str, Any], folder: Path) -> None:
        self._run: Any = None
        self._guarded(lambda: self._start(options, run_id, config, folder))

    def log(self, row: Mapping[str, Any]) -> None:
        """Mirror a row.

        Args:
            row: With a `step`.
        """
        values = {f"train/{key}": value for key, value in row.items() if key != "step"}
        self._guarded(lambda: self._run and self._run.log(values, step=row["step"]))

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Mirror the final numbers.

        Args:
            values: Name to number.
        """
        self._guarded(lambda: self._run and self._run.summary.update(dict(values)))

    def close(self) -> None:
        """Finish the W&B run."""
        self._guarded(lambda: self._run and self._run.finish())

    def _start(self, options: "Tracking", run_id: str, config: Mapping[str, Any], folder: Path) -> None:
        import wandb

        self._run = wandb.init(
            project=options.project,
            entity=options.entity,
            group=options.group,
            id=run_id,
            name=run_id,
            resume="allow",
            config=dict(config),
            dir=folder,
            mode=options.resolved_mode,
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=20, x_disable_stats=True, disable_git=True, save_code=False
            ),
        )

    def _guarded(self, call: Any) -> None:
        try:
            call()
        except Exception as error:
            log.warning("W&B is left out from here on (%s: %s)", type(error).__name__, error)
            self._run = None


class Both:
    """Several trackers as one."""

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def log(self, row: Mapping[str, Any]) -> None:
        """Pass a row on.

        Args:
            row: With a `step`.
        """
        for tracker in self._trackers:
            tracker.log(row)

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Pass the final numbers on.

        Args:
            values: Name to number.
        """
        for tracker in self._trackers:
            tracker.summarise(values)

    def close(self) -> None:
        """Close all."""
        for tracker in self._trackers:
            tracker.close()


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Tracking:
    """The options of tracking."""

    mode: Literal["auto", "offline", "disabled"]
    project: str
    entity: str | None
    group: str | None

    @property
    def resolved_mode(self) -> Literal["online", "offline"]:
        """What W&B is told: online only with `auto` and a key."""
        if self.mode == "auto" and _has_key():
            return "online"
        return "offline"

    def open(self, *, run_id: str, config: Mapping[str, Any], folder: Path) -> Tracker:
        """Start tracking a run.

        Args:
            run_id: Identity of the run; a resumed run keeps its W&B run.
            config: Resolved configuration.
            folder: The run's.

        Returns:
            The local log, and W&B unless it is disabled.
        """
        local = JsonLines(folder / "train.jsonl")
        if self.mode == "disabled":
            return local
        return Both(local, WandbRun(self, run_id=run_id, config=config, folder=folder))


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path("~/.netrc").expanduser()
    return netrc.is_file() and "wandb" in netrc.read_text(errors="ignore")
