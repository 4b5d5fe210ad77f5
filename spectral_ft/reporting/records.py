"""The runs below some folders: a run's own, or a sweep's, whatever became of each."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from spectral_ft.errors import RunError
from spectral_ft.reporting.arms import distinct_names, seedless, stem
from spectral_ft.reporting.run_files import RunFiles, Status, is_run, last_change, read_run
from spectral_ft.reporting.sweep_plan import SWEEP, PlannedJob, SweepPlan, sweep_plan
from spectral_ft.types import RunResult


@dataclass(frozen=True)
class RunFolder:
    """One run, as its folder says it."""

    folder: Path
    status: Status
    run_id: str | None
    """None where the folder does not say."""
    config: Mapping[str, Any]
    """Resolved; empty where the run ended before it was written."""
    result: RunResult | None
    """The record; None unless it is finished."""
    reason: str | None
    """Why there is no record: a sentence; None for a finished or running one."""
    arm: str
    """What its row is called: the choice of `arm`, or METHOD/POLICY, and the options that tell equal names apart."""
    seed: int | None
    updated: float
    """When its folder was last written to, in seconds since 1970."""


def run_folders(folders: Sequence[Path]) -> list[RunFolder]:
    """The runs below some folders, each once.

    Args:
        folders: A run's own, or any folder above runs, as a sweep's; the folders of a run are not searched for others.

    Returns:
        In the order of the folders, each with its subfolders by name.

    Raises:
        RunError: If a folder does not exist, or a sweep's list of jobs is damaged.
    """
    paths = _run_paths(folders)
    files = [
        read_run(path) for path in tqdm(paths, desc="reading runs", unit="run", leave=False, disable=len(paths) < 50)
    ]
    plan = planned_jobs(folders)
    jobs = {job.run_id: job for job in plan.jobs} if plan else {}
    stems, seeds = [], []
    for path, found in zip(paths, files, strict=True):
        job = jobs.get(found.run_id or path.name)
        overrides = job.overrides if job else found.overrides
        named = dict(override.lstrip("+").split("=", 1) for override in overrides if "=" in override)
        arm = (job and job.arm) or named.get("arm")
        stems.append(arm or _unnamed(found, named) or path.name)
        seeds.append(found.result.seed if found.result else _seed(found.config.get("seed", named.get("seed"))))
    arms = distinct_names(stems, [seedless(found.config) if found.config else {} for found in files])
    known = {
        jobs[found.run_id].setting: arm
        for found, arm in zip(files, arms, strict=True)
        if found.config and found.run_id in jobs
    }
    for place, found in enumerate(files):
        if not found.config and found.run_id in jobs:
            arms[place] = known.get(jobs[found.run_id].setting, arms[place])
    return [
        RunFolder(
            path, found.status, found.run_id, found.config, found.result, found.reason, arm, seed, last_change(path)
        )
        for path, found, arm, seed in zip(paths, files, arms, seeds, strict=True)
    ]


def missing_arms(plan: SweepPlan, runs: Sequence[RunFolder]) -> list[tuple[str, PlannedJob]]:
    """The jobs of a sweep that have no folder yet, with what their rows are called.

    Args:
        plan: Of the sweep.
        runs: That are there.

    Returns:
        (arm, job) each: the arm of the runs that differ in their seed alone, otherwise its own or its overrides.
    """
    jobs = {job.run_id: job for job in plan.jobs}
    known = {jobs[run.run_id].setting: run.arm for run in runs if run.run_id in jobs}
    missing = plan.missing([run.run_id for run in runs])
    return [(known.get(job.setting) or job.arm or job.setting or job.run_id, job) for job in missing]


def planned_jobs(folders: Sequence[Path]) -> SweepPlan | None:
    """The jobs that the sweeps in some folders should have.

    Args:
        folders: As for `run_folders`; of a run's own folder none is asked for.

    Returns:
        All jobs; None where no sweep wrote them down.

    Raises:
        RunError: If a folder does not exist, or a list is damaged.
    """
    found = [place / SWEEP for folder in folders for place, _ in _walk(folder) if (place / SWEEP).is_file()]
    return sweep_plan(list(dict.fromkeys(path.resolve() for path in found)))


def _run_paths(folders: Sequence[Path]) -> list[Path]:
    places = [place for folder in folders for place, runs in _walk(folder) if runs]
    return list({place.resolve(): place for place in reversed(places)}.values())[::-1]


def _walk(folder: Path) -> Iterator[tuple[Path, bool]]:
    # Folders from the top, and whether each is a run's, below which nothing is looked for.
    if not folder.is_dir():
        raise RunError(f"{folder} does not exist or is no folder.")
    for place, below, _ in os.walk(folder, followlinks=True):
        below.sort()
        runs = is_run(Path(place))
        if runs:
            below.clear()
        yield Path(place), runs


def _unnamed(found: RunFiles, named: Mapping[str, str]) -> str:
    if found.config:
        return stem(found.config)
    return " ".join(f"{option}={value}" for option, value in named.items() if option != "seed")


def _seed(said: Any) -> int | None:
    return int(said) if str(said).lstrip("-").isdigit() else None
