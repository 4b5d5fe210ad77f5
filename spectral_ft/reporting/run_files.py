"""What the files of one run folder say of its run: finished, running, failed, cut or damaged."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from spectral_ft.errors import RunError
from spectral_ft.identity import RECORD_FORMAT
from spectral_ft.run_folder import FAILURE, FINISHED, LOCK, STARTED, is_held
from spectral_ft.storage import read_json
from spectral_ft.types import RunResult

Status = Literal["finished", "running", "failed", "cut", "damaged"]


@dataclass(frozen=True)
class RunFiles:
    """What the files of a run folder say."""

    status: Status
    run_id: str | None
    config: Mapping[str, Any]
    """Resolved; empty where the run ended before it was written."""
    result: RunResult | None
    reason: str | None
    """Why there is no record: a sentence; None for a finished or running one."""
    overrides: tuple[str, ...] = field(default=())
    """Of the job, where it failed."""


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, begun or done.

    Args:
        folder: Any folder.

    Returns:
        True if one of the files of a run is there, or a process is about to write them; or if nobody may look, which
        `read_run` says.
    """
    try:
        return any((folder / name).is_file() for name in (FINISHED, STARTED, FAILURE)) or is_held(folder)
    except OSError:
        return True


def read_run(folder: Path) -> RunFiles:
    """What the files of a run folder say; nothing is raised, since one bad run must not hide the others.

    Args:
        folder: Of the run.

    Returns:
        Its state; with the record where it is finished, with the reason where it failed, was cut or is damaged.
    """
    started: dict[str, Any] = {}
    failure: dict[str, Any] = {}
    try:
        if (folder / STARTED).is_file():
            started = read_json(folder / STARTED, dict)
        if (folder / FINISHED).is_file():
            return _finished(folder)
        if (folder / FAILURE).is_file():
            failure = read_json(folder / FAILURE, dict)
    except (RunError, OSError) as error:
        why = str(error) if isinstance(error, RunError) else f"{folder} cannot be read: {error.strerror or error}."
        return RunFiles("damaged", started.get("run_id"), started.get("config", {}), None, why)
    run_id, config = started.get("run_id", failure.get("run_id")), started.get("config", {})
    if is_held(folder):
        return RunFiles("running", run_id, config, None, None)
    if failure:
        overrides = tuple(failure.get("overrides", ()))
        return RunFiles("failed", run_id, config, None, _sentence(failure), overrides)
    return RunFiles("cut", run_id, config, None, "it was cut: the same command goes on where it stopped.")


def mirrored_run(
    place: str,
    run_id: str,
    *,
    state: str,
    config: Mapping[str, Any],
    record: Mapping[str, Any] | None,
    fault: str | None = None,
) -> RunFiles:
    """What W&B says of a run, as if it were files.

    Args:
        place: Where it is, for a sentence.
        run_id: Of the run.
        state: As W&B calls it.
        config: Resolved.
        record: Without the configuration; None where W&B has none.
        fault: What is wrong with one that cannot be read.

    Returns:
        Its state: finished with the record, running, failed where W&B says so, damaged where the record is.
    """
    if fault:
        return RunFiles("damaged", run_id, config, None, f"the record of {place} is damaged: {fault}.")
    if record is None:
        if state == "running":
            return RunFiles("running", run_id, config, None, None)
        status: Status = "damaged" if state == "finished" else "failed"
        why = f"{place} is {state}, and its summary holds no record that this version wrote."
        return RunFiles(status, run_id, config, None, why)
    try:
        result = TypeAdapter(RunResult).validate_python({**record, "config": dict(config)})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return RunFiles("damaged", run_id, config, None, f"the record of {place} is damaged: {where}: {first['msg']}.")
    return RunFiles("finished", run_id, config, result, None)


def last_change(folder: Path) -> float:
    """When a run folder was last written to.

    Args:
        folder: Of the run.

    Returns:
        Seconds since 1970; of the newest file directly in it, the lock left out; 0 where nobody may look.
    """
    try:
        with os.scandir(folder) as entries:
            times = [found for entry in entries if entry.name != LOCK and (found := _changed(entry)) is not None]
        return max(times, default=folder.stat().st_mtime)
    except OSError:
        return 0.0


def _changed(entry: "os.DirEntry[str]") -> float | None:
    # A run that goes on removes files between the listing and the look.
    try:
        return entry.stat().st_mtime if entry.is_file() else None
    except OSError:
        return None


def _finished(folder: Path) -> RunFiles:
    path = folder / FINISHED
    raw = read_json(path, dict)
    try:
        result = read_json(path, RunResult)
    except RunError as error:
        config = raw.get("config")
        older = isinstance(raw.get("format"), int) and raw["format"] != RECORD_FORMAT
        told = f"{path} has record format {raw.get('format')}, this version reads {RECORD_FORMAT}: run it again."
        kept = config if isinstance(config, dict) else {}
        return RunFiles("damaged", raw.get("run_id"), kept, None, told if older else str(error))
    return RunFiles("finished", result.run_id, result.config, result, None)


def _sentence(failure: Mapping[str, Any]) -> str:
    lines = str(failure.get("error") or "").strip().splitlines()
    return lines[0] if lines else str(failure.get("type", "no reason was written down"))
