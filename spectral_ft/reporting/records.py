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

MANY = 50
"""Runs from which on a bar shows that they are read."""


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


@dataclass(frozen=True)
class Found:
    """A run before it has the name of its row."""

    place: Path
    files: RunFiles
    updated: float


def run_folders(folders: Sequence[Path]) -> list[RunFolder]:
    """The runs below some folders, each once.

    Args:
        folders: A run's own, or any folder above runs, as a sweep's; the folders of a run are not searched for others.

    Returns:
        In the order of the folders, each with its subfolders by name.

    Raises:
        RunError: If a folder does not exist, or a sweep's list of jobs is damaged.
    """
    return named_runs(found_runs(folders), planned_jobs(folders))


def found_runs(folders: Sequence[Path]) -> list[Found]:
    """The runs below some folders, without names.

    Args:
        folders: As for `run_folders`.

    Returns:
        In its order.

    Raises:
        RunError: If a folder does not exist.
    """
    places = [place for folder in folders for place, runs in _walk(folder) if runs]
    paths = list({place.resolve(): place for place in reversed(places)}.values())[::-1]
    bar = tqdm(paths, desc="reading runs", unit="run", leave=False, disable=len(paths) < MANY)
    return [Found(path, read_run(path), last_change(path)) for path in bar]


def named_runs(found: Sequence[Found], plan: SweepPlan | None) -> list[RunFolder]:
    """Give runs the names of their rows: to those that differ in their seed alone the same.

    Args:
        found: The runs of one report.
        plan: The jobs that there should be, which knows their arms; None where no sweep wrote them down.

    Returns:
        In the same order.
    """
    jobs = {job.run_id: job for job in plan.jobs} if plan else {}
    stems, seeds = [], []
    for one in found:
        job = jobs.get(one.files.run_id or one.place.name)
        overrides = job.overrides if job else one.files.overrides
        named = dict(override.lstrip("+").split("=", 1) for override in overrides if "=" in override)
        stems.append((job and job.arm) or named.get("arm") or _unnamed(one, named))
        result = one.files.result
        seeds.append(result.seed if result else _seed(one.files.config.get("seed", named.get("seed"))))
    arms = distinct_names(stems, [seedless(one.files.config) if one.files.config else {} for one in found])
    known = {
        jobs[one.files.run_id].setting: arm
        for one, arm in zip(found, arms, strict=True)
        if one.files.config and one.files.run_id in jobs
    }
    runs = []
    for one, name, seed in zip(found, arms, seeds, strict=True):
        files = one.files
        job = None if files.config else jobs.get(files.run_id or "")
        arm = known.get(job.setting, name) if job else name
        runs.append(
            RunFolder(
                one.place, files.status, files.run_id, files.config, files.result, files.reason, arm, seed, one.updated
            )
        )
    return runs


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


def _walk(folder: Path) -> Iterator[tuple[Path, bool]]:
    # Folders from the top, and whether each is a run's, below which nothing is looked for.
    if not folder.is_dir():
        raise RunError(f"{folder} does not exist or is no folder.")
    seen: set[Path] = set()
    for name, below, _ in os.walk(folder, followlinks=True):
        place = Path(name)
        if (real := place.resolve()) in seen:  # a link, which may lead back to where it lies
            below.clear()
            continue
        seen.add(real)
        below.sort()
        if runs := is_run(place):
            below.clear()
        yield place, runs


def _unnamed(one: Found, named: Mapping[str, str]) -> str:
    config = one.files.config
    if config:
        return str(config.get("tracking", {}).get("arm") or stem(config))
    return " ".join(f"{option}={value}" for option, value in named.items() if option != "seed") or one.place.name


def _seed(said: Any) -> int | None:
    return int(said) if str(said).lstrip("-").isdigit() else None
