"""The folder of a run: held by one process, by one run, and not left behind empty."""

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
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
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
        if not [path for path in folder.iterdir() if path.name != ".lock"]:
            (folder / ".lock").unlink(missing_ok=True)
            folder.rmdir()
        lock.release()


def mark_started(folder: Path, run_id: str, config: Mapping[str, Any]) -> None:
    """Write down whose folder this is.

    Args:
        folder: Held by this process.
        run_id: Of the run.
        config: Its resolved configuration.
    """
    if not (folder / STARTED).exists():
        write_json(folder / STARTED, {"run_id": run_id, "format": RECORD_FORMAT, "config": dict(config)})
