"""A data set of instructions, from the hub or from local files, as prompts and completions."""

import functools
import logging
import random
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.data.files import find_file, iterate_rows, to_items
from spectral_ft.data.prompts import TEMPLATES
from spectral_ft.data.rows import Item
from spectral_ft.errors import ConfigError, DataError

log = logging.getLogger(__name__)
HELD_OUT_SEED = 42
"""Of the choice of validation examples, the same in every run (LLM-Adapters' own seed for its 120)."""


class Example(NamedTuple):
    """One training example as text."""

    prompt: str
    completion: str
    row: int | None = None
    """Of the data set it comes from, counted from 0; None: of no data set."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class HubSplit:
    """Where the hub keeps the training rows."""

    id: str
    name: str | None
    split: str


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Dataset:
    """A file or hub data set and how it is prompted and cut."""

    name: str
    rows: Callable[[dict[str, Any]], Item]
    prompt: Literal["alpaca", "question", "plain"]
    hub: HubSplit | None
    data_dir: str | None
    files: list[str]
    limit: Annotated[int, Field(ge=1)] | None
    validation: Annotated[int, Field(ge=0)]
    shuffle_seed: int | None
    train_on_inputs: bool
    drop_overlap: bool
    max_length: Annotated[int, Field(ge=2)]
    too_long: Literal["truncate", "drop", "error"]

    def __post_init__(self) -> None:
        """Check that there is a source.

        Raises:
            ConfigError: If neither a hub id nor a local folder is given.
        """
        if self.hub is None and self.data_dir is None:
            raise ConfigError(f"dataset={self.name} has no source: give dataset.data_dir=FILE_OR_FOLDER.")

    def check_source(self) -> None:
        """Look for the local file without reading it, or fetch what the hub has.

        Raises:
            DataError: If the file is missing.
            HubError: If the hub is needed and cannot be reached.
        """
        if self.data_dir is not None:
            find_file(Path(self.data_dir).expanduser(), self.files, option="dataset.data_dir")
        else:
            self._items()  # the library keeps them: reading them again costs little

    def instructions(self) -> list[str]:
        """What every row asks, trained on or held out.

        Returns:
            One text a row, in the source's order, without the prompt around it.

        Raises:
            DataError: If a file is missing, empty, truncated or without the expected columns.
            HubError: If the hub is needed and cannot be reached.
        """
        return [item.instruction for item in self._items()]

    def examples(self, left_out: Collection[int] = ()) -> list[Example]:
        """The training examples.

        Args:
            left_out: Rows that are neither trained on nor held out, by their places in `instructions`.

        Returns:
            Prompts and completions, at most `limit` of those that are not left out. Rows without an answer are left out
            too: they would teach a space and the end.

        Raises:
            DataError: If a file is missing, empty, truncated or without the expected columns, or no row has an answer.
            HubError: If the hub is needed and cannot be reached.
        """
        return self._texts(left_out, held_out=False)

    def validation_examples(self, left_out: Collection[int] = ()) -> list[Example]:
        """Examples that are not trained on.

        Args:
            left_out: As for `examples`.

        Returns:
            Prompts and completions: `validation` of them, at most a tenth of all that are not left out.
        """
        return self._texts(left_out, held_out=True) if self.validation else []

    def _texts(self, left_out: Collection[int], *, held_out: bool) -> list[Example]:
        everything = self._items()
        rows = [(row, item) for row, item in enumerate(everything) if item.completion.strip()]
        _tell_empty(self.name, self.data_dir, len(everything), len(rows))
        if self.shuffle_seed is not None:
            random.Random(self.shuffle_seed).shuffle(rows)
        items = [(row, item) for row, item in rows if row not in left_out]
        held = held_out_places(len(items), self.validation, limit=self.limit)
        template = TEMPLATES[self.prompt]
        chosen = [item for place, item in enumerate(items) if (place in held) == held_out]
        return [
            _joined(template(item.instruction), item.completion)._replace(row=row)
            for row, item in (chosen if held_out else chosen[: self.limit])
        ]

    def _items(self) -> list[Item]:
        if self.data_dir is not None:
            path = find_file(Path(self.data_dir).expanduser(), self.files, option="dataset.data_dir")
            return to_items(iterate_rows(path), self.rows, source=str(path))
        from spectral_ft.hub import download_rows

        if self.hub is None:
            raise ConfigError(f"dataset={self.name} has no source: give dataset.data_dir=FILE_OR_FOLDER.")
        rows = download_rows(
            self.hub.id, name=self.hub.name, split=self.hub.split, override="dataset.data_dir=FILE_OR_FOLDER"
        )
        return to_items(rows, self.rows, source=self.hub.id)


@functools.cache
def _tell_empty(name: str, folder: str | None, rows: int, answered: int) -> None:
    # Once a process, though several stages read the examples.
    if not answered:
        raise DataError(f"dataset={name}: all {rows:,} rows have an empty answer: there is nothing to learn from.")
    if rows > answered:
        where = "" if folder is None else f" of {folder}"
        log.warning(
            "dataset %s: left out %d of %d rows%s, which have an empty answer", name, rows - answered, rows, where
        )


def held_out_places(count: int, validation: int, *, limit: int | None) -> frozenset[int]:
    """Which examples are held out: drawn with a fixed seed, behind the training ones where there are enough.

    Args:
        count: Examples of the data set.
        validation: Asked for.
        limit: Training examples; None for all.

    Returns:
        Their places: `validation` of them, at most a tenth of all.
    """
    held = min(validation, count // 10)
    behind = range(count if limit is None else min(limit, count), count)
    pool = behind if len(behind) >= held else range(count)
    return frozenset(random.Random(HELD_OUT_SEED).sample(pool, held))


def _joined(prompt: str, completion: str) -> Example:
    # A space goes between prompt and completion where neither has one.
    apart = prompt[-1:].isspace() or completion[:1].isspace()
    return Example(prompt, completion if apart else f" {completion}")
