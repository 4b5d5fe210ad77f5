"""Rows of local files, read one after the other, with every fault named by file and line.

| name ends in | rows |
|---|---|
| `.jsonl`, `.ndjson`, `.json` | one JSON object after the other, or one list of objects |
| `.csv` | cells between commas, quoted as a spreadsheet quotes them; the first line names the columns |
| `.tsv` | cells between tabs, without quotes, as GLUE's |
| `.parquet` | rows of the table |

Capital letters in the ending do not matter. Any of them may be compressed (gzip, bzip2, xz). Text is UTF-8, UTF-16 or
UTF-32, with or without a byte order mark. A file of another format is refused by the name of its format.

The first line of a tab-separated file holds the names of the columns, unless one of its cells is a number, which no
column is called: then there are no names, and the columns are called 0, 1, ...
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from spectral_ft.data.rows import Item, UnreadColumnsError, chat_in
from spectral_ft.errors import DataError

CHUNK = 2**20
"""Characters of JSON that are read at a time."""
LARGEST_ROW = 2**25
"""Characters of one row; one that is longer is no example, and would have to be kept in memory as a whole."""
COMPRESSED: Mapping[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
"""How a compressed file begins, to what opens it."""
ENDINGS = (".gz", ".bz2", ".xz")
"""Of the names of compressed files."""
FOREIGN: Mapping[bytes, str] = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard",
    b"ARROW1": "an Arrow or Feather file",
    b"\xff\xff\xff\xff": "an Arrow stream, as `save_to_disk` of datasets writes it",
    b"SQLite format 3": "an SQLite database",
    b"\x89HDF": "an HDF5 file",
    b"\x80\x04": "a Python pickle",
    b"\x80\x05": "a Python pickle",
    b"%PDF": "a PDF document",
}
"""How files begin that are not read here."""
PARQUET = b"PAR1"
INSTEAD = "Save its rows as .jsonl, .csv or .parquet."
_SPACE = re.compile(r"\s+")
_FAULTS = (OSError, UnicodeError, EOFError, zlib.error, lzma.LZMAError)


def file_format(path: Path) -> str:
    """The format that a file's name says.

    Args:
        path: Such as `train.JSONL.gz`.

    Returns:
        The ending in small letters, without that of a compressed file: `.jsonl`.
    """
    name = path.name.lower()
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    return Path(name).suffix


def find_file(folder: Path, names: Sequence[str], *, option: str) -> Path:
    """The first of several files that a folder holds.

    Args:
        folder: Folder, or already the file.
        names: File names, in order of preference. Each stands for the same name in every format that is read here.
        option: The option that gave the folder, for the error.

    Returns:
        The file.

    Raises:
        DataError: If the folder or every file is missing, or one name has several files in other formats.
    """
    if folder.is_file():
        return folder
    if not folder.is_dir():
        what = "is a pipe or a device: write its content into a file" if folder.exists() else "does not exist"
        raise DataError(f"{option}={folder} {what}.")
    if found := look_for(folder, names, option=option):
        return found
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise DataError(f"{option}={folder} holds none of {', '.join(names)}. It holds {there}.")


def look_for(folder: Path, names: Sequence[str], *, option: str) -> Path | None:
    """As `find_file`, of an existing folder.

    Args:
        folder: Folder.
        names: File names, in order of preference.
        option: The option that gave the folder, for the error.

    Returns:
        The file; None if it is not there.

    Raises:
        DataError: If one name has several files in other formats.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and file_format(path) in _READERS)
    for stem in dict.fromkeys(map(_stem, names)):
        alike = {path.name: path for path in files if _stem(path.name) == stem}
        if exact := next((alike[name] for name in names if name in alike), None):
            return exact
        if len(alike) > 1:
            raise DataError(
                f"{option}={folder} holds {' and '.join(alike)}, and only one of them is read: give {option}=FILE."
            )
        if alike:
            return next(iter(alike.values()))
    return None


def _stem(name: str) -> str:
    lowered = name.lower()
    for ending in ENDINGS:
        lowered = lowered.removesuffix(ending)
    return Path(lowered).stem


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a file.

    Args:
        path: Of a format that is read here.

    Returns:
        The objects.

    Raises:
        DataError: If the file is empty, truncated, of another format, or holds something else.
    """
    return list(iterate_rows(path))


def iterate_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, one after the other, so that no more than one of them must be in memory.

    Args:
        path: Of a format that is read here.

    Yields:
        The objects, at least one.

    Raises:
        DataError: If the file is empty, truncated, of another format, or holds something else.
    """
    number = 0
    with _faults_named(path), _opened(path) as file:
        for number, row in enumerate(_reader(path, file)(path, file), start=1):
            if not isinstance(row, dict):
                raise DataError(f"{path}, row {number}: expected an object with columns, found {type(row).__name__}.")
            yield row
        if not number:
            raise DataError(f"{path} holds no list of objects.")


def read_text(path: Path) -> str:
    r"""All of a text file.

    Args:
        path: In UTF-8, UTF-16 or UTF-32, maybe compressed.

    Returns:
        Its text, with `\n` at the end of each line.

    Raises:
        DataError: If it cannot be read, or is no text.
    """
    with _faults_named(path), _opened(path) as file:
        return _as_text(path, file, newline=None).read()


@contextmanager
def _faults_named(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeError as error:
        raise DataError(
            f"{path} cannot be read: it is not text in UTF-8 or UTF-16 ({error}). Save it as UTF-8."
        ) from error
    except EOFError as error:
        raise DataError(f"{path} cannot be read: {error}; is it truncated?") from error
    except _FAULTS as error:
        raise DataError(f"{path} cannot be read: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    # The bytes, of a compressed file those that were compressed, whatever its name says.
    with path.open("rb") as raw:
        begins = raw.peek(8)
        opener = next((opener for mark, opener in COMPRESSED.items() if begins.startswith(mark)), None)
        if opener is None:
            yield raw
            return
        with opener(raw) as file:
            yield file


def _as_text(path: Path, file: Any, *, newline: str | None) -> IO[str]:
    begins = file.peek(32)[:32]
    for mark, kind in FOREIGN.items():
        if begins.startswith(mark):
            raise DataError(f"{path} is {kind}, which is not read here. {INSTEAD}")
    encoding = json.detect_encoding(begins)
    return io.TextIOWrapper(file, encoding=encoding, newline=newline)


def _reader(path: Path, file: Any) -> Callable[[Path, Any], Iterator[Any]]:
    if file.peek(4).startswith(PARQUET):
        return _parquet
    named = file_format(path)
    if named == ".parquet":
        raise DataError(f"{path} is no parquet file, or is damaged: it does not begin with {PARQUET.decode()}.")
    if named in _READERS:
        return _READERS[named]
    begins = file.peek(64)[:64].replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    if begins[:1] in {b"{", b"["}:
        return _json_rows
    known = ", ".join(_READERS)
    foreign = next((kind for mark, kind in FOREIGN.items() if file.peek(32).startswith(mark)), None)
    if foreign:
        raise DataError(f"{path} is {foreign}, which is not read here. {INSTEAD}")
    raise DataError(f"{path} ends in {named!r}, which is no format of rows. What is read here ends in {known}.")


class _Values:
    """JSON values of a text that is read piece by piece."""

    def __init__(self, path: Path, file: IO[str]) -> None:
        self.path = path
        self._file = file
        self._buffer = ""
        self._place = 0
        self._line = 1  # of the buffer's beginning
        self._decode = json.JSONDecoder().raw_decode

    def next_sign(self) -> str:
        # The next character that is no space, which is not taken; nothing at the end.
        while True:
            if blank := _SPACE.match(self._buffer, self._place):
                self._place = blank.end()
            if self._place < len(self._buffer):
                return self._buffer[self._place]
            if not self._more():
                return ""

    def take(self) -> None:
        self._place += 1

    def value(self) -> Any:
        while True:
            try:
                value, self._place = self._decode(self._buffer, self._place)
            except json.JSONDecodeError as error:
                long = len(self._buffer) - self._place > LARGEST_ROW
                if long or not self._more():
                    raise self._fault(error, long=long) from error
            except RecursionError as error:
                raise DataError(f"{self.path}, line {self.line}: nested too deeply to be a row of data.") from error
            except ValueError as error:  # a whole number of thousands of digits
                raise DataError(f"{self.path}, line {self.line}: a value that cannot be read ({error}).") from error
            else:
                return value

    @property
    def line(self) -> int:
        """Where it is."""
        return self._line + self._buffer.count("\n", 0, self._place)

    def _more(self) -> bool:
        kept = self._buffer[self._place :]
        self._line, self._place = self.line, 0
        read = self._file.read(max(CHUNK, len(kept)))
        self._buffer = kept + read
        return bool(read)

    def _fault(self, error: json.JSONDecodeError, *, long: bool) -> DataError:
        if long and (error.msg.startswith("Unterminated") or error.pos > len(self._buffer) - 64):
            return DataError(
                f"{self.path}, line {self.line}: one row has more than {LARGEST_ROW:,} characters, which is no example "
                "to learn from: is it the right file? Cut such rows, or leave them out."
            )
        line = self._line + self._buffer.count("\n", 0, len(self._buffer[: error.pos].rstrip()))
        return DataError(f"{self.path}, line {line}: not a JSON object ({error.msg}); is it truncated?")


def _json_rows(path: Path, file: Any) -> Iterator[Any]:
    values = _Values(path, _as_text(path, file, newline="\n"))
    first = values.next_sign()
    if not first:
        raise DataError(f"{path} is empty.")
    return (_listed if first == "[" else _successive)(path, values)


def _listed(path: Path, values: _Values) -> Iterator[Any]:
    values.take()
    sign = values.next_sign()
    while sign != "]":
        yield _interned(values.value())
        sign = values.next_sign()
        if sign == ",":
            values.take()
            sign = "," if values.next_sign() == "]" else ""  # a comma before the end is refused as a value
        elif sign != "]":
            raise DataError(
                f"{path} is not valid JSON (line {values.line}: neither a comma nor the end of the list behind a row); "
                "is it truncated?"
            )
    values.take()
    if values.next_sign():
        raise DataError(f"{path}, line {values.line}: something follows the list of objects.")


def _successive(path: Path, values: _Values) -> Iterator[Any]:
    first = _interned(values.value())
    if not values.next_sign() and file_format(path) == ".json" and isinstance(first, dict):
        lists = [name for name, value in first.items() if isinstance(value, list) and value]
        raise DataError(
            f"{path} holds no list of objects, but one object with {', '.join(list(first)[:8]) or 'nothing'}. "
            + (f"If its rows are those of {lists[0]!r}, save that list alone." if lists else "One row is no data set.")
        )
    yield first
    while values.next_sign():
        yield _interned(values.value())


def _interned(row: Any) -> Any:
    # One text for a column's name, whatever the number of rows.
    return {sys.intern(name): value for name, value in row.items()} if isinstance(row, dict) else row


def _comma_separated(path: Path, file: Any) -> Iterator[dict[str, str]]:
    rows = csv.reader(_as_text(path, file, newline=""), strict=True)
    before = csv.field_size_limit(LARGEST_ROW)
    names: list[str] = []
    try:
        for cells in rows:
            if not cells:
                continue
            if names:
                _check_width(path, rows.line_num, cells, names)
                yield dict(zip(names, cells, strict=True))
                continue
            names = _column_names(path, [cell.strip() or f"Unnamed: {place}" for place, cell in enumerate(cells)])
            if len(names) == 1 and (other := next((sign for sign in ";\t|" if sign in names[0]), None)):
                raise DataError(
                    f"{path}: its first line has one cell, {names[0]!r}; its cells are separated by {other!r}, it "
                    "seems. Separate them by commas, or save it as .tsv."
                )
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: {error}; is a quote missing, or is it truncated?") from error
    finally:
        csv.field_size_limit(before)
    if not names:
        raise DataError(f"{path} is empty.")


def _tab_separated(path: Path, file: Any) -> Iterator[dict[str, str]]:
    names: list[str] = []
    for number, line in enumerate(_as_text(path, file, newline="\n"), start=1):
        if not line.strip():
            continue
        cells = line.removesuffix("\n").split("\t")
        if not names:
            nameless = any(re.fullmatch(r"\s*-?\d+(\.\d+)?\s*", cell) for cell in cells)
            if not nameless:
                names = _column_names(path, [cell.strip() for cell in cells])
                continue
            names = [str(column) for column in range(len(cells))]
        _check_width(path, number, cells, names)
        yield {name: cell.strip() for name, cell in zip(names, cells, strict=True)}
    if not names:
        raise DataError(f"{path} is empty.")


def _column_names(path: Path, names: list[str]) -> list[str]:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{path}: two columns are called {twice[0]!r}: rename one.")
    return names


def _check_width(path: Path, line: int, cells: Sequence[str], names: Sequence[str]) -> None:
    if len(cells) != len(names):
        raise DataError(
            f"{path}, line {line}: {len(cells)} cells where the first line has {len(names)}; is it truncated?"
        )


def _parquet(path: Path, file: Any) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
        _column_names(path, table.schema_arrow.names)
        for batch in table.iter_batches(batch_size=1_000):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no whole parquet file ({error}); is it truncated?") from error


_READERS: Mapping[str, Callable[[Path, Any], Iterator[Any]]] = {
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".json": _json_rows,
    ".csv": _comma_separated,
    ".tsv": _tab_separated,
    ".parquet": _parquet,
}
FORMATS = tuple(_READERS)
"""Endings of the files whose rows are read here."""


def to_items(
    rows: Iterable[dict[str, Any]],
    convert: Callable[[dict[str, Any]], Item],
    *,
    source: str,
    option: str = "dataset.rows",
) -> list[Item]:
    """Rows to items.

    Args:
        rows: The rows.
        convert: One of `data/rows.py`.
        source: File or hub id, for the error.
        option: The option that holds the recipe's own options, for the error.

    Returns:
        One item a row.

    Raises:
        DataError: If a row lacks a column, holds something unexpected, or has a column that the recipe does not read.
    """
    items = []
    for number, row in enumerate(rows, start=1):
        where = f"{source}, row {number}"
        try:
            item = convert(row)
            if wrong := [name for name in Item._fields[:3] if not isinstance(getattr(item, name), str)]:
                raise DataError(f"{where}: the recipe gives {wrong[0]}={getattr(item, wrong[0])!r}, which is no text.")
        except KeyError as error:
            chat = chat_in(row)
            hint = f" {chat[0]!r} holds {chat[1]}." if chat else ""
            missing = ", ".join(_missing(row, convert)) or str(error)
            raise DataError(
                f"{where}: no column {missing}; its columns are {', '.join(map(str, row))}.{hint}"
            ) from error
        except UnreadColumnsError as error:
            raise DataError(f"{where}: {error.sentence(option)}") from error
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise DataError(f"{where}: unexpected content ({error}).") from error
        items.append(item)
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
