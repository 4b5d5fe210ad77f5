"""Every boundary type to its file and back: a file under its final name is whole, and is what was written.

`replacing` makes a file final in one step. If a folder is named as its home, the digest of the file is entered in the
`manifest.json` of that folder first, and every reader here compares the file with it. The manifest and other small
files (`write_sealed`) carry a digest of themselves.

Nothing here knows what the values mean.
"""

import hashlib
import json
import logging
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from spectral_ft.errors import Damaged, RunError
from spectral_ft.processes import is_first
from spectral_ft.types import MatrixShape, MatrixSpectrum, Probe, SpectralReport

log = logging.getLogger(__name__)
T = TypeVar("T")
M = TypeVar("M")
REPORT_KEY = b"spectral_ft"
MANIFEST = "manifest.json"
"""In the folder of a run: what its files hold."""
DIGEST = "digest"
"""Key of a sealed file."""
DIGEST_BYTES = 16
CHUNK = 1 << 24
AGAIN = "Remove it; the same command makes it again."
"""The way out where a damaged file costs nothing but time."""


def text_digest(text: str) -> str:
    """Digest of a text.

    Args:
        text: The text.

    Returns:
        32 hexadecimal digits of BLAKE2b.
    """
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()


def file_digest(path: Path) -> str:
    """Digest of a file's content.

    Args:
        path: The file.

    Returns:
        32 hexadecimal digits of BLAKE2b.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def replacing(path: Path, *, home: Path | None = None, durable: bool = True) -> Iterator[Path]:
    """Give a place to write to; when the block ends well it becomes `path`, otherwise it is removed.

    Args:
        path: Final name of a file or folder; its parent is made.
        home: Folder above it whose manifest shall hold its digest; None enters it nowhere.
        durable: Wait until the content is on the disk. A cache that checks its entries, and a picture, need not.

    Yields:
        A name in the same folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        by_umask(part)
        if durable:
            sync(part)
        if home is not None:
            _enter(home, {path.relative_to(home) / inner: file_digest(file) for inner, file in _files(part)})
        if part.is_dir() and path.is_dir():
            shutil.rmtree(path)
        part.replace(path)
        if durable:
            _sync_one(path.parent)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


def by_umask(path: Path) -> None:
    """Give files the mode that any new file has; safetensors leaves its own readable by their owner alone.

    Args:
        path: A file, or a folder with all that is below it.
    """
    umask = os.umask(0o077)
    os.umask(umask)
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file() and not file.is_symlink() and stat.S_IMODE(file.stat().st_mode) == 0o600:
            file.chmod(0o666 & ~umask)


def sync(path: Path) -> None:
    """Wait until a file, or all that a folder holds, is on the disk.

    Args:
        path: File or folder.
    """
    for _, file in _files(path):
        _sync_one(file)
    if path.is_dir():
        for folder in [path, *(inner for inner in path.rglob("*") if inner.is_dir())]:
            _sync_one(folder)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(path: Path) -> list[tuple[Path, Path]]:
    # Each file with its name below the path, which is empty for the path itself.
    if path.is_dir():
        return [(file.relative_to(path), file) for file in sorted(path.rglob("*")) if file.is_file()]
    return [(Path(), path)]


def write_text(path: Path, text: str, *, home: Path | None = None, durable: bool = True) -> None:
    """Write a text file atomically.

    Args:
        path: File.
        text: Content.
        home: As for `replacing`.
        durable: As for `replacing`.
    """
    with replacing(path, home=home, durable=durable) as part:
        part.write_text(text, encoding="utf-8")


FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""


def csv_text(frame: pd.DataFrame, **options: Any) -> str:
    """A frame as CSV, in which no text is a formula to a spreadsheet.

    Args:
        frame: Numbers and text, which may come from elsewhere.
        **options: Of `DataFrame.to_csv`.

    Returns:
        The text; cells and headings that would be formulas have an apostrophe before them, numbers stay numbers.
    """
    text = frame.select_dtypes(exclude=["number", "bool"]).columns
    safe = frame.assign(**{str(column): frame[column].map(_no_formula) for column in text})
    return str(safe.rename(columns=_no_formula, index=_no_formula).to_csv(**options))


def _no_formula(cell: Any) -> Any:
    if not isinstance(cell, str) or not cell.startswith(FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def write_json(path: Path, value: Any, *, home: Path | None = None, durable: bool = True) -> None:
    """Write a boundary value, or plain JSON data, as indented strict JSON.

    Args:
        path: File.
        value: A pydantic dataclass, or dicts, lists, strings and numbers.
        home: As for `replacing`.
        durable: As for `replacing`.

    Raises:
        RunError: If a number is NaN or infinite.
    """
    plain = to_jsonable_python(value, inf_nan_mode="constants")
    try:
        text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise RunError(f"{path} would hold a number that JSON has no form for (NaN or infinite): {error}.") from error
    write_text(path, text + "\n", home=home, durable=durable)


def read_json(path: Path, kind: type[T], *, way_out: str = AGAIN) -> T:
    """Read and validate what `write_json` wrote.

    Args:
        path: File.
        kind: Type to validate against.
        way_out: What helps if it is damaged.

    Returns:
        The value.

    Raises:
        Damaged: If the file is not what was written, or does not hold such a value.
    """
    check(path, way_out=way_out)
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise Damaged(f"{path} is damaged or was edited: {where}: {first['msg']}. {way_out}") from error


# ---- what files hold


def check(path: Path, *, way_out: str = AGAIN) -> None:
    """Compare a file with the manifest of its folder, or of the folder above.

    Args:
        path: File, which may be missing.
        way_out: What helps if it is damaged.

    Raises:
        Damaged: If a manifest says that it was written with another content, or the manifest is damaged itself.
    """
    for home in (path.parent, path.parent.parent):
        known = manifest(home).get(str(path.relative_to(home)))
        if known is not None and path.is_file():
            if file_digest(path) not in known:
                raise Damaged(
                    f"{path} is damaged or was edited: {MANIFEST} says that it was written with another content. "
                    f"{way_out}"
                )
            return


def check_folder(folder: Path, *, way_out: str) -> None:
    """Compare all files of a folder with the manifest of the folder above.

    Args:
        folder: Such as `adapter`.
        way_out: What helps if one is damaged or missing.

    Raises:
        Damaged: If one has another content than it was written with, or is missing.
    """
    for name in manifest(folder.parent):
        if Path(name).parts[0] == folder.name:
            if not (folder.parent / name).is_file():
                raise Damaged(f"{folder.parent / name} is missing. {way_out}")
            check(folder.parent / name, way_out=way_out)


def manifest(home: Path) -> Mapping[str, Sequence[str]]:
    """What a manifest says.

    Args:
        home: Folder that it is in.

    Returns:
        File, relative to the folder, to the digests that it may have: of what was written last, and of what was there
        before, since a process may be killed between entry and file. Empty if there is no manifest.

    Raises:
        Damaged: If it is damaged itself, or may not be read.
    """
    path = home / MANIFEST
    try:
        if not path.is_file():
            return {}
    except OSError:  # nobody may look into the folder, which whoever reads the file itself will say
        return {}
    return read_sealed(
        path,
        dict[str, list[str]],
        key="files",
        way_out="Put a copy of it back, or remove it: the files of its folder are then used without being verified.",
    )


def enter(home: Path, *names: str) -> None:
    """Enter files in a manifest as they are now, such as one that grew line by line.

    Args:
        home: Folder of the manifest.
        names: Of files in it; those that are missing are passed over.
    """
    _enter(home, {Path(name): file_digest(home / name) for name in names if (home / name).is_file()})


def _enter(home: Path, found: Mapping[Path, str]) -> None:
    known = manifest(home)
    new = {str(name): [digest, *known.get(str(name), ())[:1]] for name, digest in found.items()}
    new = {name: list(dict.fromkeys(digests)) for name, digests in new.items()}
    if any(list(known.get(name, ())) != digests for name, digests in new.items()):
        write_sealed(home / MANIFEST, {"format": 1, "files": dict(sorted({**known, **new}.items()))})


def write_sealed(path: Path, content: Mapping[str, Any], *, durable: bool = True) -> None:
    """Write a JSON object that carries a digest of itself.

    Args:
        path: File.
        content: Its keys; `digest` is added.
        durable: As for `replacing`.
    """
    plain = to_jsonable_python({**content}, inf_nan_mode="constants")
    plain.pop(DIGEST, None)
    write_json(path, {**plain, DIGEST: _seal(plain)}, durable=durable)


def read_sealed(path: Path, kind: type[T], *, key: str | None = None, way_out: str = AGAIN) -> T:
    """Read what `write_sealed` wrote.

    Args:
        path: File.
        kind: Type to validate the content against, or one entry of it.
        key: Of that entry; None takes the content.
        way_out: What helps if it is damaged.

    Returns:
        The content, without its digest.

    Raises:
        Damaged: If the file is not what was written.
    """
    try:
        content = json.loads(path.read_bytes())
        whole = content.pop(DIGEST) == _seal(content)
        found = TypeAdapter(kind).validate_json(json.dumps(content if key is None else content[key]))
    except PermissionError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}. {way_out}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{path} is damaged ({error!r:.200}). {way_out}") from error
    if not whole:
        raise Damaged(f"{path} is damaged: its content is not the one of its digest. {way_out}")
    return found


def _seal(content: Any) -> str:
    return text_digest(json.dumps(content, sort_keys=True))


def stored(path: Path, kind: type[T], make: Callable[[], M], *, complete: Callable[[T], bool] | None = None) -> T | M:
    """What a stage left, or what it makes now.

    Args:
        path: Its file, in the folder of the run.
        kind: SpectralReport, Probe or a pandas frame, which have forms of their own; anything else is JSON.
        make: Makes it; None, which is not written, if there is nothing to make.
        complete: Whether what was read is all that is asked for; None takes it as it is.

    Returns:
        What is in the file now, which the first process of a run writes. A damaged file is made again, and the log
        says so.

    Raises:
        Damaged: If the manifest of the folder is.
    """
    read, write = _FORMS.get(kind, (lambda file: read_json(file, kind), write_json))
    if path.exists():
        manifest(path.parent)  # nothing is made again because of it
        try:
            found: T = read(path)
            if complete is None or complete(found):
                return found
        except Damaged as error:
            log.warning("%s It is made again now.", str(error).removesuffix(AGAIN).strip())
    fresh = make()
    if fresh is not None and is_first():
        write(path, fresh, home=path.parent)
    return fresh


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]], *, home: Path | None = None, durable: bool = True) -> None:
    """Write one JSON object a line, atomically.

    Args:
        path: File.
        rows: The objects.
        home: As for `replacing`.
        durable: As for `replacing`.
    """
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(path, text, home=home, durable=durable)


def read_jsonl(path: Path, *, way_out: str = AGAIN) -> list[dict[str, Any]]:
    """Read what `write_jsonl` wrote.

    Args:
        path: File.
        way_out: What helps if it is damaged.

    Returns:
        The objects.

    Raises:
        Damaged: If the file is not what was written, or a line is no object.
    """
    check(path, way_out=way_out)
    try:
        text = path.read_text(encoding="utf-8")
        return [TypeAdapter(dict[str, Any]).validate_json(line) for line in text.split("\n") if line]
    except ValueError as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise Damaged(f"{path} is damaged or was edited: {why}. {way_out}") from error


def write_frame(path: Path, frame: pd.DataFrame, *, home: Path | None = None) -> None:
    """Write a table as parquet.

    Args:
        path: File.
        frame: The table.
        home: As for `replacing`.
    """
    with replacing(path, home=home) as part:
        frame.to_parquet(part, index=False)


def read_frame(path: Path) -> pd.DataFrame:
    """Read what `write_frame` wrote.

    Args:
        path: File.

    Returns:
        The table.

    Raises:
        Damaged: If the file is not what was written, or no table.
    """
    check(path)
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise Damaged(f"{path} is damaged: {error}. {AGAIN}") from error


def write_report(path: Path, report: SpectralReport, *, home: Path | None = None) -> None:
    """Write a report as parquet: its frame, its singular values, and the rest as file metadata.

    Args:
        path: File.
        report: The report.
        home: As for `replacing`.
    """
    frame = report.frame().drop(columns="reasons")
    frame["reasons"] = [json.dumps(spectrum.reasons) for spectrum in report.matrices]
    frame["fault"] = [spectrum.fault for spectrum in report.matrices]
    frame["singular_values"] = pd.Series([spectrum.singular_values for spectrum in report.matrices], dtype=object)
    head = {"model": report.model, "fingerprint": report.fingerprint, "settings": report.settings}
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), REPORT_KEY: json.dumps(head).encode()})
    with replacing(path, home=home) as part:
        pq.write_table(table, part)


def read_report(path: Path) -> SpectralReport:
    """Read what `write_report` wrote.

    Args:
        path: File.

    Returns:
        The report.

    Raises:
        Damaged: If the file is not what was written, or no report.
    """
    check(path)
    try:
        table = pq.read_table(path)
        head = json.loads(table.schema.metadata[REPORT_KEY])
        return SpectralReport(**head, matrices=tuple(map(_spectrum, table.to_pylist())))
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{path} is damaged or no spectral report: {error}. {AGAIN}") from error


def _spectrum(row: Mapping[str, Any]) -> MatrixSpectrum:
    fixed = ("name", "type", "side", "block", "rows", "cols")
    own = {*fixed, "reasons", "fault", "precision", "singular_values"}
    return MatrixSpectrum(
        matrix=MatrixShape(
            name=row["name"],
            type=row["type"],
            side=row["side"],
            block=row["block"],
            shape=None if row["rows"] is None or pd.isna(row["rows"]) else (int(row["rows"]), int(row["cols"])),
        ),
        singular_values=None if row["singular_values"] is None else np.array(row["singular_values"]),
        columns={key: None if pd.isna(value) else value for key, value in row.items() if key not in own},
        reasons=json.loads(row["reasons"]),
        fault=row["fault"],
        precision=row["precision"],
    )


PROBE_ARRAYS = ("sketches", "half_sketches", "components")


def write_probe(path: Path, probe: Probe, *, home: Path | None = None) -> None:
    """Write a probe as safetensors: its arrays, and the rest as metadata.

    Args:
        path: File.
        probe: The probe.
        home: As for `replacing`.
    """
    arrays = {
        f"{kind}/{name}": np.ascontiguousarray(array)
        for kind in PROBE_ARRAYS
        for name, array in getattr(probe, kind).items()
    }
    head = {"ids": json.dumps(probe.ids), "columns": json.dumps(probe.columns, allow_nan=False)}
    with replacing(path, home=home) as part:
        save_file(arrays, part, metadata=head)


def read_probe(path: Path) -> Probe:
    """Read what `write_probe` wrote.

    Args:
        path: File.

    Returns:
        The probe.

    Raises:
        Damaged: If the file is not what was written, or no probe.
    """
    check(path)
    try:
        with safe_open(path, framework="numpy") as file:
            head = file.metadata()
            arrays: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in PROBE_ARRAYS}
            for key in file.keys():  # noqa: SIM118 - no dict
                kind, _, name = key.partition("/")
                arrays[kind][name] = file.get_tensor(key)
            return Probe(ids=tuple(json.loads(head["ids"])), columns=json.loads(head["columns"]), **arrays)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{path} is damaged or no probe: {error}. {AGAIN}") from error


_FORMS: Mapping[Any, tuple[Callable[..., Any], Callable[..., None]]] = {
    SpectralReport: (read_report, write_report),
    Probe: (read_probe, write_probe),
    pd.DataFrame: (read_frame, write_frame),
}
"""Types with a form of their own: how they are read and written."""
