"""The jobs that sweeps should have: `sweep.json`, which each adds to in its folder before the first of them begins."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spectral_ft.reporting.arms import distinct_names, seedless
from spectral_ft.storage import read_json

SWEEP = "sweep.json"
LOST = (
    "Put a copy of it back, or remove it: the runs below it stay, and each sweep lists its jobs anew when its command "
    "is called again."
)
"""The way out where it is damaged."""
KNOWN = ConfigDict(extra="ignore")


@dataclass(frozen=True, config=KNOWN)
class PlannedJob:
    """One run that a sweep should have."""

    run_id: str
    overrides: tuple[str, ...]
    """Of the command line that is this job alone."""
    arm: str | None = None
    """The choice of `arm`; None where the sweep has none."""
    seed: int | None = None
    call: str | None = None
    """The sweep that began or planned it last; None where an older version wrote it down."""

    @property
    def options(self) -> dict[str, str]:
        """What it was told, without the seed and what changes no result."""
        said = [override.lstrip("+").partition("=") for override in self.overrides]
        return seedless({option: value for option, _, value in said})

    @property
    def setting(self) -> str:
        """What tells it from other jobs of the sweep, whatever the seed."""
        return " ".join(f"{option}={value}" for option, value in self.options.items())


@dataclass(frozen=True, config=KNOWN)
class SweepPlan:
    """What a sweep, or several, should have."""

    experiment: str | None
    """Its name; several joined with commas."""
    jobs: tuple[PlannedJob, ...]
    commands: tuple[tuple[str, ...], ...] = ()
    """What each sweep was told on its command line, after the entry's name."""

    @property
    def names(self) -> dict[str, str]:
        """Of each setting what its row is called: its arm, and the options that tell the settings of one arm apart."""
        jobs = list({job.setting: job for job in self.jobs}.values())
        names = distinct_names([job.arm or job.setting or job.run_id for job in jobs], [job.options for job in jobs])
        return dict(zip((job.setting for job in jobs), names, strict=True))

    def missing(self, run_ids: Iterable[str | None]) -> tuple[PlannedJob, ...]:
        """The jobs that have no folder yet.

        Args:
            run_ids: Of the runs that have one.

        Returns:
            In the sweep's order.
        """
        there = set(run_ids)
        return tuple(job for job in self.jobs if job.run_id not in there)


def sweep_plan(files: Sequence[Path]) -> SweepPlan | None:
    """What sweeps should have.

    Args:
        files: Each a `sweep.json`.

    Returns:
        All their jobs, each once; None without a file.

    Raises:
        RunError: If a file is damaged.
    """
    if not files:
        return None
    return merged([read_json(file, SweepPlan, way_out=LOST) for file in files])


def merged(plans: Sequence[SweepPlan]) -> SweepPlan:
    """Several sweeps as one.

    Args:
        plans: The oldest first.

    Returns:
        All their jobs and commands, each once; of a job that several have, what the last says.
    """
    names = dict.fromkeys(name for plan in plans if plan.experiment for name in plan.experiment.split(", "))
    jobs = {job.run_id: job for plan in plans for job in plan.jobs}
    commands = dict.fromkeys(command for plan in plans for command in plan.commands)
    return SweepPlan(experiment=", ".join(names) or None, jobs=tuple(jobs.values()), commands=tuple(commands))
