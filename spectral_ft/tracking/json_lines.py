"""The training log as lines of a file."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectral_ft.tracking.tracker import Silent

log = logging.getLogger(__name__)


class JsonLines(Silent):
    """Rows as lines of a file; a resumed training drops the rows beyond its checkpoint.

    Figures, tables, adapter and final numbers are files of the run already, so nothing is done with them.
    """

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


def _complement(line: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    # Two rows of one step that say different things: the loss, and the validation loss.
    return bool(line["step"] == row["step"] and not (line.keys() & row.keys()) - {"step", "epoch", "seconds"})
