"""What an adapter was trained on: `origin.json` beside it, so that it is not put on another base."""

from pathlib import Path

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spectral_ft.errors import CheckpointError
from spectral_ft.storage import check_folder, read_json, write_json
from spectral_ft.types import AllocationPlan

FILE = "origin.json"
TRAIN_AGAIN = (
    "Put a copy of the adapter back, or remove train.json, scores.json and result.json next to it: the same command "
    "then trains again."
)
"""The way out where an adapter is damaged."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Origin:
    """Base and plan of an adapter."""

    model: str
    fingerprint: str
    """Of the base's weight files."""
    plan: AllocationPlan
    """As it was when the training ended. PEFT compresses `target_modules`; this has every matrix."""


def write_origin(folder: Path, *, model: str, fingerprint: str, plan: AllocationPlan) -> None:
    """Write what an adapter was trained on.

    Args:
        folder: Of the adapter.
        model: What records call the base.
        fingerprint: Of its weight files.
        plan: Of the adapter.
    """
    write_json(folder / FILE, Origin(model, fingerprint, plan), home=folder.parent)


def check_origin(folder: Path, *, model: str, fingerprint: str) -> Origin | None:
    """Refuse an adapter of another base, and one that is not what its run wrote.

    Args:
        folder: Of the adapter.
        model: What records call the base.
        fingerprint: Of its weight files.

    Returns:
        Its origin; None for an adapter that was made elsewhere.

    Raises:
        CheckpointError: If it was trained on other weights.
        Damaged: If a file of it has another content than it was written with, or is missing.
    """
    check_folder(folder, way_out=TRAIN_AGAIN)
    if not (folder / FILE).is_file():
        return None
    origin = read_json(
        folder / FILE,
        Origin,
        way_out="Put a copy of it back. Only if you are sure of the base, remove it: it is then not compared.",
    )
    if origin.fingerprint != fingerprint:
        raise CheckpointError(
            f"{folder} was trained on {origin.model} (fingerprint {origin.fingerprint}), not on {model} (fingerprint "
            f"{fingerprint}): its updates mean nothing to other weights. Give the base it belongs to."
        )
    return origin
