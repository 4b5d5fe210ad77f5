"""Which checkpoint a cut training goes on from: the newest whole one of this run.

checkpoints/checkpoint-STEP/   trained.safetensors, method.pt, rounds.json, steps.json, the Trainer's optimizer,
                               scheduler, random states and position in the data, and, written last, complete.json

`complete.json` says whose checkpoint it is and what its files contain, with a digest of itself, so that one that was
cut, damaged or put there from elsewhere is known before anything is read from it.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spectral_ft.errors import Damaged, RunError
from spectral_ft.storage import by_umask, read_sealed, sync, write_sealed

log = logging.getLogger(__name__)
COMPLETE = "complete.json"
"""Written last into a checkpoint: without it the checkpoint was cut while it was written."""
NEEDED = ("trained.safetensors", "method.pt", "steps.json", "optimizer.pt", "scheduler.pt", "trainer_state.json")
"""Without one of them, or a random state, a training would go on as another one; the Trainer would not say so."""


@dataclass(frozen=True)
class Origin:
    """What a checkpoint must come from for a training to go on from it as if it had never stopped."""

    run_id: str
    plan: str
    """Fingerprint of `plan.json`."""
    versions: Mapping[str, str]
    """Package to version, of those that compute."""
    code: str
    """Fingerprint of the sources that compute: a version stays the same while a package is worked on."""
    commit: str | None
    """Of these sources, to find them by; None outside a checkout. It decides nothing."""
    processes: int
    """That train together: each has a random state of its own."""
    on_cpu: str | None = None
    """How a CPU holds a quantized base, as `quantization.on_cpu` calls it; None for any other base."""


def last_checkpoint(folder: Path, origin: Origin) -> Path | None:
    """The newest whole checkpoint; cut and damaged ones are removed, and said.

    Args:
        folder: Of the checkpoints.
        origin: Of this run.

    Returns:
        Its folder, or None.

    Raises:
        RunError: If it is of another run, another plan, or written by other versions, other code or another number of
            processes.
    """
    named = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in folder.glob("checkpoint-*")}
    steps = {path: int(match[1]) for path, match in named.items() if match}  # a copy of one has another name
    found = sorted(steps, key=lambda path: steps[path])
    while found:
        newest = found.pop()
        fault = _fault(newest)
        if fault is None:
            _check_origin(newest, origin)  # before what it lacks: other code may have written other files
            fault = _lacking(newest, origin.processes)
        if fault is None:
            return newest
        rest = "taking the one before it" if found else "training from the start"
        log.warning("%s %s; %s", newest.name, fault, rest)
        shutil.rmtree(newest)
    return None


def check_base(checkpoint: Path | None, origin: Origin) -> None:
    """Refuse to go on with a base that is held in another way: its products differ in the last digits.

    Args:
        checkpoint: A whole one; None for none.
        origin: Of this run, with the base in memory.

    Raises:
        RunError: If the checkpoint names the other way.
    """
    held = _told(checkpoint)["origin"].get("on_cpu") if checkpoint else None
    if held and origin.on_cpu and held != origin.on_cpu:
        raise RunError(
            f"{checkpoint} was trained with quantization.on_cpu={held}, and the free memory now led to "
            f"{origin.on_cpu}, which computes other last digits: set quantization.on_cpu={held} to go on."
        )


def remove_checkpoints(folder: Path) -> None:
    """Remove what only a cut training would need.

    Args:
        folder: The run's.
    """
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def mark_whole(checkpoint: Path, *, step: int, seconds: float, origin: Origin) -> None:
    """Say that all of a checkpoint is written, and what.

    Args:
        checkpoint: Its folder.
        step: Number of finished optimizer steps.
        seconds: In the training loop so far.
        origin: Of this run.
    """
    by_umask(checkpoint)
    sync(checkpoint)
    files = {path.name: _digest(path) for path in sorted(checkpoint.iterdir()) if path.name != COMPLETE}
    content = {"step": step, "seconds": seconds, "origin": asdict(origin), "files": files}
    write_sealed(checkpoint / COMPLETE, content)


def seconds_of(checkpoint: Path | None) -> float:
    """How long the training took up to a checkpoint.

    Args:
        checkpoint: A whole one; None for none.

    Returns:
        Seconds in the training loop.
    """
    return float(_told(checkpoint)["seconds"]) if checkpoint else 0.0


def step_of(checkpoint: Path) -> int:
    """After which step a checkpoint was written.

    Args:
        checkpoint: A whole one.

    Returns:
        Number of finished optimizer steps.
    """
    return int(_told(checkpoint)["step"])


def _fault(checkpoint: Path) -> str | None:
    # Why nothing can be read from it; None where all is well.
    if not (checkpoint / COMPLETE).is_file():
        return "was cut while it was written"
    try:
        told = _told(checkpoint)
        step, _, _ = int(told["step"]), float(told["seconds"]), told["origin"]["run_id"]
        for name, digest in told["files"].items():
            if not (checkpoint / name).is_file():
                return f"lacks {name}"
            if _digest(checkpoint / name) != digest:
                return f"has a damaged {name}"
        return _wrong_step(checkpoint, step) if "trainer_state.json" in told["files"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, Damaged):
        return f"has a damaged {COMPLETE}"


def _wrong_step(checkpoint: Path, step: int) -> str | None:
    state = int(json.loads((checkpoint / "trainer_state.json").read_text())["global_step"])
    if checkpoint.name == f"checkpoint-{step}" and state == step:
        return None
    return f"is of step {state} by its trainer_state.json, and of step {step} by its {COMPLETE}"


def _lacking(checkpoint: Path, processes: int) -> str | None:
    # What the Trainer would start anew without a word.
    states = ["rng_state.pth"] if processes == 1 else [f"rng_state_{index}.pth" for index in range(processes)]
    told = _told(checkpoint)["files"]
    return next((f"lacks {name}" for name in (*NEEDED, *states) if name not in told), None)


def _check_origin(checkpoint: Path, origin: Origin) -> None:
    told = _told(checkpoint)["origin"]  # of other code: it may lack anything
    anew = f"remove {checkpoint.parent} to train anew"
    if told["run_id"] != origin.run_id:
        raise RunError(f"{checkpoint} belongs to run {told['run_id']}, and this is run {origin.run_id}: {anew}.")
    if told.get("plan") != origin.plan:
        raise RunError(
            f"{checkpoint} was trained under another plan (fingerprint {str(told.get('plan'))[:12]}) than the "
            f"plan.json of this run ({origin.plan[:12]}): put the old plan.json back, or {anew}."
        )
    versions = told.get("versions", {})
    packages = sorted(versions.keys() | origin.versions.keys())
    changed = [name for name in packages if versions.get(name) != origin.versions.get(name)]
    if changed:
        was, now = (
            ", ".join(f"{name} {each.get(name, 'absent')}" for name in changed) for each in (versions, origin.versions)
        )
        raise RunError(
            f"{checkpoint} was written with {was}, and this is {now}, which may compute otherwise: install the former, "
            f"or {anew}."
        )
    if told.get("code") != origin.code:
        was, now = (
            f"fingerprint {str(code)[:12]}, commit {commit or 'unknown'}"
            for code, commit in ((told.get("code"), told.get("commit")), (origin.code, origin.commit))
        )
        raise RunError(
            f"{checkpoint} was written by other code of spectral_ft ({was}) than this ({now}), which may compute "
            f"otherwise: go back to the former to go on, or {anew}."
        )
    if told.get("processes") != origin.processes:
        raise RunError(
            f"{checkpoint} was written with a world size of {told.get('processes')}, and this run has one of "
            f"{origin.processes}, which draws other random numbers: start as many processes as then, or {anew}."
        )


def _told(checkpoint: Path) -> dict[str, Any]:
    plain = json.loads((checkpoint / COMPLETE).read_text())
    if plain.keys() == {"step", "seconds", "origin", "files"}:
        return dict(plain)  # by an older version, which `_check_origin` refuses with a sentence
    return read_sealed(checkpoint / COMPLETE, dict[str, Any])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
