"""Rows of local files: JSON, JSON lines, tab-separated values, with every fault named by file and line.

A tab-separated file has one row a line and no quoting, as GLUE's. Its first line holds the names of the
columns, unless one of its cells is a number, which no column is called: then there are no names, and the
columns are called 0, 1, ...
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from spectral_ft.data.rows import Item
from spectral_ft.errors import DataError


def find_file(folder: Path, names: Sequence[str], *, option: str) -> Path:
    """The first of several file names that a folder holds.

    Args:
        folder: Folder, or already the file.
        names: File names, in order of preference.
        option: The option that gave the folder, for the error.

    Returns:
        The file.

    Raises:
        DataError: If the folder or every file is missing.
    """
    if folder.is_file():
        return folder
    if not folder.is_dir():
        raise DataError(f"{option}={folder} does not exist.")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise DataError(f"{option}={folder} holds none of {', '.join(names)}. It holds {there}.")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a file.

    Args:
        path: `.jsonl` (one object a line), `.tsv` (one row a line), or `.json` (a list of objects).

    Returns:
        The objects.

    Raises:
        DataError: If the file is empty, truncated, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not text.strip():
        raise DataError(f"{path} is empty.")
    rows = _READERS.get(path.suffix, _read_json)(path, text)
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path} holds no list of objects.")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: expected an object with columns, found {type(row).__name__}.")
    return rows


def _read_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}); is it truncated?") from error


def _read_json_lines(path: Path, text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise DataError(f"{path}, line {number}: not a JSON object ({error}); is it truncated?") from error
    return rows


def _read_tab_separated(path: Path, text: str) -> list[dict[str, str]]:
    lines = [(number, line.split("\t")) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    _, first = lines[0]
    nameless = any(re.fullmatch(r"\s*-?\d+(\.\d+)?\s*", cell) for cell in first)
    names = [str(column) for column in range(len(first))] if nameless else [cell.strip() for cell in first]
    for number, cells in lines:
        if len(cells) != len(names):
            raise DataError(
                f"{path}, line {number}: {len(cells)} cells where the first line has {len(names)}; is it truncated?"
            )
    rows = lines if nameless else lines[1:]
    return [{name: cell.strip() for name, cell in zip(names, cells, strict=True)} for _, cells in rows]


_READERS: Mapping[str, Callable[[Path, str], Any]] = {".jsonl": _read_json_lines, ".tsv": _read_tab_separated}


def to_items(rows: list[dict[str, Any]], convert: Callable[[dict[str, Any]], Item], *, source: str) -> list[Item]:
    """Rows to items.

    Args:
        rows: The rows.
        convert: One of `data/rows.py`.
        source: File or hub id, for the error.

    Returns:
        One item a row.

    Raises:
        DataError: If a row lacks a column or holds something unexpected.
    """
    items = []
    for number, row in enumerate(rows, start=1):
        try:
            items.append(convert(row))
        except KeyError as error:
            missing = ", ".join(_missing(row, convert)) or str(error)
            raise DataError(
                f"{source}, row {number}: no column {missing}; its columns are {', '.join(row)}."
            ) from error
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise DataError(f"{source}, row {number}: unexpected content ({error}).") from error
    return items


class _Lacking(dict[str, Any]):
    """A row that notes which of its columns are asked for in vain."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self.missing: list[str] = []

    def __missing__(self, column: str) -> str:
        self.missing.append(column)
        return ""


def _missing(row: Mapping[str, Any], convert: Callable[[dict[str, Any]], Item]) -> list[str]:
    lacking = _Lacking(row)
    with suppress(KeyError, TypeError, ValueError, IndexError, AttributeError):  # of the text that is not there
        convert(lacking)
    return [repr(column) for column in dict.fromkeys(lacking.missing)]
