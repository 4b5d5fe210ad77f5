"""Every boundary type to its file and back, atomically: a file under its final name is whole.

Nothing here knows what the values mean.
"""

import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
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

from spectral_ft.errors import RunError
from spectral_ft.types import MatrixShape, MatrixSpectrum, Probe, SpectralReport

T = TypeVar("T")
REPORT_KEY = b"spectral_ft"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a place to write to; when the block ends well it becomes `path`, otherwise it is removed.

    Args:
        path: Final name of a file or folder; its parent is made.

    Yields:
        A name in the same folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        by_umask(part)
        if part.is_dir() and path.is_dir():
            shutil.rmtree(path)
        part.replace(path)
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


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Args:
        path: File.
        text: Content.
    """
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a boundary value, or plain JSON data, as indented strict JSON.

    Args:
        path: File.
        value: A pydantic dataclass, or dicts, lists, strings and numbers.

    Raises:
        RunError: If a number is NaN or infinite.
    """
    plain = to_jsonable_python(value, inf_nan_mode="constants")
    try:
        text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise RunError(f"{path} would hold a number that JSON has no form for (NaN or infinite): {error}.") from error
    write_text(path, text + "\n")


def read_json(path: Path, kind: type[T]) -> T:
    """Read and validate what `write_json` wrote.

    Args:
        path: File.
        kind: Type to validate against.

    Returns:
        The value.

    Raises:
        RunError: If the file is truncated or does not hold such a value.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise RunError(
            f"{path} is damaged or was edited: {where}: {first['msg']}. Remove it; the same command makes it again."
        ) from error


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically.

    Args:
        path: File.
        rows: The objects.
    """
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_report(path: Path, report: SpectralReport) -> None:
    """Write a report as parquet: its frame, its singular values, and the rest as file metadata.

    Args:
        path: File.
        report: The report.
    """
    frame = report.frame().drop(columns="reasons")
    frame["reasons"] = [json.dumps(spectrum.reasons) for spectrum in report.matrices]
    frame["fault"] = [spectrum.fault for spectrum in report.matrices]
    frame["singular_values"] = pd.Series([spectrum.singular_values for spectrum in report.matrices], dtype=object)
    head = {"model": report.model, "fingerprint": report.fingerprint, "settings": report.settings}
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), REPORT_KEY: json.dumps(head).encode()})
    with replacing(path) as part:
        pq.write_table(table, part)


def read_report(path: Path) -> SpectralReport:
    """Read what `write_report` wrote.

    Args:
        path: File.

    Returns:
        The report.

    Raises:
        RunError: If the file is truncated or no report.
    """
    try:
        table = pq.read_table(path)
        head = json.loads(table.schema.metadata[REPORT_KEY])
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is damaged or no spectral report: {error}. Remove it and call again.") from error
    fixed = ("name", "type", "side", "block", "rows", "cols")
    own = {*fixed, "reasons", "fault", "precision", "singular_values"}
    return SpectralReport(
        **head,
        matrices=tuple(
            MatrixSpectrum(
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
            for row in table.to_pylist()
        ),
    )


PROBE_ARRAYS = ("sketches", "half_sketches", "components")


def write_probe(path: Path, probe: Probe) -> None:
    """Write a probe as safetensors: its arrays, and the rest as metadata.

    Args:
        path: File.
        probe: The probe.
    """
    arrays = {
        f"{kind}/{name}": np.ascontiguousarray(array)
        for kind in PROBE_ARRAYS
        for name, array in getattr(probe, kind).items()
    }
    head = {"ids": json.dumps(probe.ids), "columns": json.dumps(probe.columns, allow_nan=False)}
    with replacing(path) as part:
        save_file(arrays, part, metadata=head)


def read_probe(path: Path) -> Probe:
    """Read what `write_probe` wrote.

    Args:
        path: File.

    Returns:
        The probe.

    Raises:
        RunError: If the file is truncated or no probe.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            head = file.metadata()
            arrays: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in PROBE_ARRAYS}
            for key in file.keys():  # noqa: SIM118 - no dict
                kind, _, name = key.partition("/")
                arrays[kind][name] = file.get_tensor(key)
            return Probe(ids=tuple(json.loads(head["ids"])), columns=json.loads(head["columns"]), **arrays)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is damaged or no probe: {error}. Remove it and call again.") from error
