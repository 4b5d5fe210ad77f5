"""The training log as lines of a file."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spectral_ft.storage import write_text
from spectral_ft.tracking.tracker import Silent

log = logging.getLogger(__name__)
LOG = "train.jsonl"
"""In a run's folder."""


class JsonLines(Silent):
    """Rows as lines of a file; a resumed training drops the rows beyond its checkpoint.

    Figures, tables, adapter and final numbers are files of the run already, so nothing is done with them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: list[Mapping[str, Any]] | None = None
        """The rows of the last step in the file; None until it was read, which is when the first row comes."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row; what a cut training left of this step or of later ones goes first.

        Args:
            row: With a `step`; a step may have several rows, each with other values.
        """
        if self._last is None or not all(_stays(line, row) for line in self._last):
            self._last = self._trimmed(row)
        with self._path.open("a", encoding="utf-8") as file:  # whole on the disk before the training goes on
            file.write(json.dumps(dict(row)) + "\n")
        self._last = [*(line for line in self._last if line["step"] == row["step"]), dict(row)]

    def restore(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Begin with the rows of a checkpoint, whatever the file has become since.

        Args:
            rows: All that were logged until then.
        """
        there = self._path.read_bytes() if self._path.exists() else b""
        whole = _text(rows).encode()
        if not there.startswith(whole):
            log.warning("%s is damaged: its rows up to the checkpoint are taken from there", self._path.name)
        if there != whole:
            write_text(self._path, whole.decode())
        self._last = None

    def _trimmed(self, row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        # The rows that stay, after which the file has these alone.
        if not self._path.exists():
            return []
        text = self._path.read_text(encoding="utf-8", errors="replace")
        kept: list[Mapping[str, Any]] = [line for line in self._rows(text) if _stays(line, row)]
        if (whole := _text(kept)) != text:
            write_text(self._path, whole)
        return kept

    def _rows(self, text: str) -> list[dict[str, Any]]:
        rows = []
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                log.warning("%s: dropping a line that was cut", self._path.name)
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int | float):
                rows.append(row)
            else:
                log.warning("%s: dropping a line that is no row of a training", self._path.name)
        return rows


def _text(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(dict(row)) + "\n" for row in rows)


def _stays(line: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    return bool(line["step"] < row["step"]) or _complement(line, row)


def _complement(line: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    # Two rows of one step that say different things: the loss, and the validation loss.
    return bool(line["step"] == row["step"] and not (line.keys() & row.keys()) - {"step", "epoch", "seconds"})
