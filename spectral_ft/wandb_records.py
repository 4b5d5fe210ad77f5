"""Run records in a W&B project: put there when a run ends, and read back from there for a table.

Known gap: the answers to single items stay in the run's folder, so runs read from W&B are not tested against one
another.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from pydantic_core import to_jsonable_python

from spectral_ft.errors import ConfigError, RunError
from spectral_ft.types import RunResult

KEY = "record"
"""Of the summary, under which the record is."""
PATIENCE = 20
"""Seconds that W&B may take to answer."""


@dataclass(frozen=True)
class MirroredRun:
    """What W&B has of a run."""

    place: str
    """wandb:ENTITY/PROJECT/ID"""
    run_id: str
    state: str
    """As W&B calls it: finished, running, failed, crashed, killed."""
    config: Mapping[str, Any]
    record: Mapping[str, Any] | None
    """Without the configuration; None where the summary holds none."""
    updated: float
    """In seconds since 1970."""
    fault: str | None = None
    """What is wrong with the record that the summary holds."""


class Api(Protocol):
    """What is needed of `wandb.Api`."""

    def runs(self, path: str, filters: dict[str, Any] | None) -> Any:
        """The runs of a project."""
        ...


def summary_of(result: RunResult) -> dict[str, str]:
    """A record as a value of W&B's summary.

    Args:
        result: The record.

    Returns:
        One key: JSON text without the configuration, which W&B has already.
    """
    record = {key: value for key, value in to_jsonable_python(result).items() if key != "config"}
    return {KEY: json.dumps(record, allow_nan=False)}


def read_project(named: str, *, api: Api | None = None) -> list[MirroredRun]:
    """The runs of a W&B project.

    Args:
        named: ENTITY/PROJECT, or ENTITY/PROJECT/GROUP for one group.
        api: As `wandb.Api`; None makes one with the user's key.

    Returns:
        Oldest first.

    Raises:
        ConfigError: If the name is none of a project.
        RunError: If there is no key, W&B cannot be reached or refuses, or it has no such runs.
    """
    import wandb

    parts = named.split("/")
    if len(parts) not in {2, 3} or not all(parts):
        raise ConfigError(
            f"wandb:{named} names no W&B project: write wandb:ENTITY/PROJECT or wandb:ENTITY/PROJECT/GROUP."
        )
    project, filters = "/".join(parts[:2]), {"group": parts[2]} if len(parts) == 3 else None
    try:
        found = [_mirrored(run, project) for run in (api or wandb.Api(timeout=PATIENCE)).runs(project, filters)]
    except (wandb.errors.Error, OSError, ValueError) as error:
        sentence = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(
            f"wandb:{named} cannot be read, by the key of `wandb login` or WANDB_API_KEY: {sentence}"
        ) from error
    if not found:
        raise RunError(f"wandb:{named} holds no run.")
    return found


def _mirrored(run: Any, project: str) -> MirroredRun:
    record, fault = _record(run.summary.get(KEY))
    changed = getattr(run, "heartbeat_at", None) or run.created_at
    return MirroredRun(
        place=f"wandb:{project}/{run.id}",
        run_id=run.id,
        state=run.state,
        config=dict(run.config),
        record=record,
        updated=datetime.fromisoformat(changed.replace("Z", "+00:00")).timestamp(),
        fault=fault,
    )


def _record(text: Any) -> tuple[dict[str, Any] | None, str | None]:
    # And what is wrong with it: one damaged record must not hide the others.
    if not text:
        return None, None
    try:
        record = json.loads(text)
    except (TypeError, ValueError) as error:
        return None, str(error)
    return (record, None) if isinstance(record, dict) else (None, "it is no JSON object")
