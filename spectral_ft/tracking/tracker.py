"""What a run tells while it goes on, and who takes it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Takes what a run tells; it never raises and never waits, but for a bounded time when it is closed."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Take one row of the training log; it has a `step`."""
        ...

    def picture(self, path: Path) -> None:
        """Take a figure, a PNG file."""
        ...

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take a table: rows of the same columns."""
        ...

    def adapter(self, folder: Path) -> None:
        """Take what the training left."""
        ...

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Take the numbers that a run ends with; one that gives none has not finished."""
        ...

    def close(self) -> None:
        """Nothing comes after this."""
        ...


class Silent:
    """Takes everything and keeps nothing: of a process that is not the first of its run."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Nothing.

        Args:
            row: Not kept.
        """

    def picture(self, path: Path) -> None:
        """Nothing.

        Args:
            path: Not kept.
        """

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Nothing.

        Args:
            name: Not kept.
            rows: Not kept.
        """

    def adapter(self, folder: Path) -> None:
        """Nothing.

        Args:
            folder: Not kept.
        """

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Nothing.

        Args:
            values: Not kept.
        """

    def close(self) -> None:
        """Nothing to close."""


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

    def picture(self, path: Path) -> None:
        """Pass a figure on.

        Args:
            path: PNG file.
        """
        for tracker in self._trackers:
            tracker.picture(path)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Pass a table on.

        Args:
            name: What it is called.
            rows: Of the same columns.
        """
        for tracker in self._trackers:
            tracker.table(name, rows)

    def adapter(self, folder: Path) -> None:
        """Pass an adapter on.

        Args:
            folder: Of the adapter.
        """
        for tracker in self._trackers:
            tracker.adapter(folder)

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
