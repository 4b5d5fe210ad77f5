"""The options of tracking."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.tracking.json_lines import LOG, JsonLines
from spectral_ft.tracking.server import key_of_user
from spectral_ft.tracking.tracker import Both, Tracker
from spectral_ft.tracking.wandb_run import Head, WandbRun

OFFLINE = frozenset({"offline", "dryrun"})
"""What `$WANDB_MODE` calls it."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Tracking:
    """Whether and how W&B mirrors the local files; records of runs from before an option lack it."""

    mode: Literal["auto", "offline", "disabled"]
    project: str
    entity: str | None
    group: str | None
    arm: str | None = None
    artifacts: bool = False
    patience: Annotated[float, Field(gt=0)] = 30.0

    @property
    def resolved_mode(self) -> Literal["online", "offline", "disabled"]:
        """What becomes of `auto`: what W&B's own variable says, otherwise online with a key, offline without one."""
        if self.mode != "auto":
            return self.mode
        said = os.environ.get("WANDB_MODE")
        if said == "disabled":
            return "disabled"
        return "online" if key_of_user() and said not in OFFLINE else "offline"

    def open(self, *, run_id: str, config: Mapping[str, Any], folder: Path) -> Tracker:
        """Start tracking a run.

        Args:
            run_id: Identity of the run; a resumed run keeps its W&B run.
            config: Resolved configuration.
            folder: The run's.

        Returns:
            The local log, and W&B unless it is disabled.
        """
        local = JsonLines(folder / LOG)
        mode = self.resolved_mode
        if mode == "disabled":
            return local
        head = Head(
            mode=mode,
            project=self.project,
            entity=self.entity,
            group=self.group,
            tags=tags_of(config, arm=self.arm),
            run_id=run_id,
            config=dict(config),
            folder=str(folder.absolute()),
            patience=self.patience,
        )
        return Both(local, WandbRun(head, artifacts=self.artifacts))


def tags_of(config: Mapping[str, Any], *, arm: str | None) -> list[str]:
    """What a W&B run is found by.

    Args:
        config: Resolved configuration.
        arm: Row of a table; None without one.

    Returns:
        Method, policy, model, data set and arm, each once and at most 64 characters long, which is W&B's limit.
    """
    policy = str(config.get("rank_policy", {}).get("_target_", "")).split(".")
    named = [config.get(group, {}).get("name") for group in ("method", "model", "dataset")]
    named.insert(1, policy[-2] if len(policy) > 1 else None)  # the module's name is the option's
    return list(dict.fromkeys(str(tag)[:64] for tag in [*named, arm] if tag))
