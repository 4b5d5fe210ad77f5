"""The folder of a run: held by one process, by one run, and not left behind empty."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from spectral_ft.errors import RunError
from spectral_ft.identity import RECORD_FORMAT
from spectral_ft.storage import read_json, write_json

STARTED = "run.json"
"""Says whose folder this is, from the moment the first stage begins."""
LOCK = ".lock"
PATIENCE = 0.5
"""Seconds for which a claim waits: whoever asks `is_held` holds the lock for a moment."""


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
        if started.exists() and (owner := read_json(started, dict).get("run_id")) != run_id:
            raise RunError(
                f"{folder} holds run {owner}, this configuration is run {run_id}: give another hydra.run.dir, "
                "or remove the folder."
            )
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
        True if its lock is held.
    """
    try:
        lock = os.open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # freed again by closing
        return False
    except BlockingIOError:
        return True
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
