"""The folder of a run: held by one process, by one run, and not left behind empty; whether its files are as written."""

import fcntl
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from spectral_ft.errors import Damaged, RunError
from spectral_ft.fingerprint import file_fingerprint
from spectral_ft.identity import RECORD_FORMAT
from spectral_ft.storage import AGAIN, MANIFEST, file_digest, manifest, read_json, write_json
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

OF_STAGES = (
    STARTED, "overlap.json", "spectrum.parquet", "probe.safetensors", "plan.json", "losses.json", "train.jsonl",
    "adapter/*", "train.json", "samples/*.jsonl", "scores.json", "drift.parquet", FINISHED,
)  # fmt: skip
"""The files that stages leave and read."""


@dataclass(frozen=True)
class Verified:
    """What the manifest says of the files of a run."""

    whole: tuple[str, ...]
    """Files that are as they were written."""
    damaged: tuple[str, ...]
    """Files with another content; the manifest too, if it is damaged itself."""
    unknown: tuple[str, ...]
    """Files of stages without a digest: written before there was a manifest."""
    missing: tuple[str, ...]
    """Files that were written and are gone."""


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
        content = {"run_id": run_id, "format": RECORD_FORMAT, "config": dict(config)}
        write_json(folder / STARTED, content, home=folder)


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
        The record; None if there is none, or a damaged one, which is made again from the files of the stages.

    Raises:
        Damaged: If another file or the manifest is damaged.
        RunError: If the record is that of another run.
    """
    if not (folder / FINISHED).exists():
        return None
    manifest(folder)
    try:
        result = read_json(folder / FINISHED, RunResult)
    except Damaged as error:
        log.warning("%s It is made again now.", str(error).removesuffix(AGAIN).strip())
        return None
    if result.run_id != run_id:
        raise RunError(_of_another(folder, result.run_id, run_id))
    found = verified(folder, whole=False)
    for name in found.damaged:
        raise Damaged(f"{folder / name} is damaged or was edited, after its run {run_id} had ended. {_repeat(name)}")
    log.info(
        "run %s is done already%s: nothing to do (remove %s to repeat it)",
        run_id,
        f" ({len(found.unknown)} of its files are of an earlier version and not verified)" if found.unknown else "",
        folder,
    )
    return result


def verified(folder: Path, *, whole: bool) -> Verified:
    """Compare the files of a run with its manifest.

    Args:
        folder: Of the run.
        whole: Read large files as a whole, too, that are known to be unchanged by size, times and a sample.

    Returns:
        What is as it was written, and what is not.
    """
    digest = file_digest if whole else file_fingerprint
    stages = {str(path.relative_to(folder)) for each in OF_STAGES for path in folder.glob(each)}
    try:
        known = manifest(folder)
    except Damaged:
        return Verified((), (MANIFEST,), tuple(sorted(stages)), ())
    there = {name: (folder / name).is_file() for name in known}
    fine = {name: there[name] and digest(folder / name) in known[name] for name in known}
    return Verified(
        whole=tuple(name for name in known if fine[name]),
        damaged=tuple(name for name in known if there[name] and not fine[name]),
        unknown=tuple(sorted(stages - known.keys())),
        missing=tuple(name for name in known if not there[name]),
    )


def _repeat(name: str) -> str:
    # The way out for a file of a run that has ended.
    copy = "Put a copy of it back, or remove"
    if name == MANIFEST:
        return f"{copy} it: the files of the run are then used without being verified."
    if name in {STARTED, "train.jsonl", "losses.json"}:
        return f"{copy} it: no result depends on it any more."
    if name == "train.json" or name.startswith("adapter/"):
        return f"{copy} train.json, scores.json and {FINISHED}: the same command then trains again."
    return f"{copy} it and {FINISHED}: the same command makes both again."


def _of_another(folder: Path, owner: str, run_id: str) -> str:
    return (
        f"{folder} holds run {owner}, this configuration is run {run_id}: give another hydra.run.dir, or remove the "
        "folder."
    )
