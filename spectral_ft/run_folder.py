"""The folder of a run: held by one process, by one run, and not left behind empty."""

import fcntl
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from spectral_ft.errors import RunError
from spectral_ft.identity import RECORD_FORMAT
from spectral_ft.storage import read_json, write_json
from spectral_ft.types import RunResult

log = logging.getLogger(__name__)

STARTED = "run.json"
"""Says whose folder this is, from the moment the first stage begins."""
LOCK = ".lock"
PATIENCE = 0.5
"""Seconds for which a claim waits: whoever asks `is_held` holds the lock for a moment."""

FINISHED = "result.json"
"""The record, from the moment the last stage ended."""

FAILURE = "failure.json"
"""Why a job of a sweep left no record, until the same run begins again."""


@contextmanager
def claimed(folder: Path, run_id: str) -> Iterator[None]:
    """Hold a run folder against other processes and other runs.

    Args:
        folder: Made where it is missing, removed again where it stays empty.
        run_id: Of the run that wants it.

    Yields:
        Nothing.

    Raises:
        RunError: If another process holds it, or it belongs to another run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=PATIENCE)
    except filelock.Timeout as error:
        raise RunError(
            f"another process is working on run {run_id} in {folder}. Wait for it, or give another hydra.run.dir."
        ) from error
    try:
        started = folder / STARTED
        if started.exists() and (owner := str(read_json(started, dict).get("run_id"))) != run_id:
            raise RunError(_of_another(folder, owner, run_id))
        yield
    finally:
        if not [path for path in folder.iterdir() if path.name != LOCK]:
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process of this machine is working in a run folder; nothing is written there.

    Args:
        folder: Of a run.

    Returns:
        True if its lock is held; a lock that may not be looked at, or on a disk without locks, counts as free.
    """
    try:
        lock = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # freed again by closing
        return False
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        os.close(lock)


def mark_started(folder: Path, run_id: str, config: Mapping[str, Any]) -> None:
    """Write down whose folder this is.

    Args:
        folder: Held by this process.
        run_id: Of the run.
        config: Its resolved configuration.
    """
    if not (folder / STARTED).exists():
        write_json(folder / STARTED, {"run_id": run_id, "format": RECORD_FORMAT, "config": dict(config)})


def note_failure(folder: Path, run_id: str, *, sentence: str, kind: str, overrides: Sequence[str]) -> None:
    """Write down why a run failed, unless the folder is another's.

    Args:
        folder: Of the run.
        run_id: Of the run.
        sentence: What a user is told.
        kind: Class of the error.
        overrides: What the job was called with.
    """
    with claimed(folder, run_id):
        said = {"run_id": run_id, "error": sentence, "type": kind, "overrides": list(overrides), "time": time.time()}
        write_json(folder / FAILURE, said)


def finished_run(folder: Path, run_id: str) -> RunResult | None:
    """The record of a run that is done; reading it takes no lock and loads nothing heavy.

    Args:
        folder: Of the run.
        run_id: Of the run.

    Returns:
        The record, or None where there is none.

    Raises:
        RunError: If the record is damaged, or that of another run.
    """
    if not (folder / FINISHED).exists():
        return None
    if (result := read_json(folder / FINISHED, RunResult)).run_id != run_id:
        raise RunError(_of_another(folder, result.run_id, run_id))
    log.info("run %s is done already: nothing to do (remove %s to repeat it)", run_id, folder)
    return result


def _of_another(folder: Path, owner: str, run_id: str) -> str:
    return (
        f"{folder} holds run {owner}, this configuration is run {run_id}: give another hydra.run.dir, or remove the "
        "folder."
    )
