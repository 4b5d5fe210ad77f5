"""A W&B run in a process of its own, so that a W&B that hangs, crashes or is slow costs the run nothing.

What is told goes into a queue, from there into the process's standard input, and sentences come back. Only `close`
waits, and no longer than `patience`.
"""

import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

log = logging.getLogger(__name__)

GRACE = 5.0
"""Seconds beyond the patience, in which the process itself says what it did not manage."""
QUIET = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}


@dataclass(frozen=True)
class Head:
    """What a W&B run begins with."""

    mode: Literal["online", "offline"]
    project: str
    entity: str | None
    group: str | None
    tags: list[str]
    run_id: str
    config: dict[str, Any]
    folder: str
    """Of the run; W&B's files are below `wandb` there."""
    patience: float
    """Seconds that the end of the run may wait for uploads."""


class WandbRun:
    """A W&B run; whatever happens to it is said in a sentence and never stops the work."""

    def __init__(self, head: Head, *, artifacts: bool) -> None:
        self._head, self._artifacts = head, artifacts
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._messages.put(asdict(head))
        self._process = _started(head)
        if self._process:
            for work in (self._write, self._read):
                threading.Thread(target=work, name="wandb", daemon=True).start()

    def log(self, row: Mapping[str, Any]) -> None:
        """Mirror a row.

        Args:
            row: With a `step`.
        """
        self._messages.put({"do": "log", "row": dict(row)})

    def picture(self, path: Path) -> None:
        """Mirror a figure.

        Args:
            path: PNG file.
        """
        self._messages.put({"do": "picture", "path": str(path.absolute())})

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Mirror a table.

        Args:
            name: What W&B calls it.
            rows: Of the same columns.
        """
        self._messages.put({"do": "table", "name": name, "rows": [dict(row) for row in rows]})

    def adapter(self, folder: Path) -> None:
        """Upload an adapter, where that was asked for.

        Args:
            folder: Of the adapter.
        """
        if self._artifacts:
            self._messages.put({"do": "adapter", "path": str(folder.absolute())})

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Mirror the final numbers.

        Args:
            values: Name to number.
        """
        self._messages.put({"do": "summarise", "values": dict(values)})

    def close(self) -> None:
        """Finish the W&B run, or leave it behind when the patience is over."""
        self._messages.put(None)
        if self._process is None:
            return
        try:
            self._process.wait(timeout=self._head.patience + GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            log.warning(
                "W&B did not end within %g s and was stopped; what it lacks is sent by `wandb sync %s/wandb/*run-*`",
                self._head.patience + GRACE,
                self._head.folder,
            )
        self._process = None

    def _write(self) -> None:
        # In a thread: a process that takes nothing fills the pipe, and writing to a full one waits.
        process = self._process
        assert process is not None and process.stdin is not None
        try:
            with process.stdin as pipe:
                for message in iter(self._messages.get, None):
                    pipe.write(json.dumps(message, default=str) + "\n")
                    pipe.flush()
                pipe.write("null\n")  # the pipe's end alone may never come: forks of this process hold it open
        except OSError:
            return  # it has ended, and said why

    def _read(self) -> None:
        process = self._process
        assert process is not None and process.stdout is not None
        with process.stdout as pipe:
            _tell(pipe)


def _started(head: Head) -> "subprocess.Popen[str] | None":
    command = [sys.executable, "-m", "spectral_ft.tracking.mirror"]
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **QUIET},
            start_new_session=True,  # Ctrl-C is for the run; this one then finishes what it was told
        )
    except OSError as error:
        log.warning("W&B is left out: its process cannot be started (%s)", error)
        return None


def _tell(pipe: IO[str]) -> None:
    for line in pipe:
        level, _, sentence = line.rstrip("\n").partition(" ")
        log.log(logging.INFO if level == "info" else logging.WARNING, "%s", sentence)
