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
    """None where neither the folder nor a sweep says it."""
    config: Mapping[str, Any]
    """Resolved; empty where the run ended before it was written."""
    result: RunResult | None
    """The record; None unless it is finished."""
    reason: str | None
    """Why there is no record: a sentence; None for a finished or running one."""
    arm: str
    """What its row is called: the choice of `arm`, or METHOD/POLICY, and the options that tell equal names apart."""
    choice: str | None
    """The choice of `arm`, by which published numbers are found; None without one."""
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
    # A run that has just begun, or whose files are damaged, is known by its folder: a sweep names it by the identity.
    ids = [one.files.run_id or (one.place.name if one.place.name in jobs else None) for one in found]
    of_plan = [jobs.get(run_id or "") for run_id in ids]
    choices, stems, seeds = [], [], []
    for one, job in zip(found, of_plan, strict=True):
        overrides = job.overrides if job else one.files.overrides
        named = dict(override.lstrip("+").split("=", 1) for override in overrides if "=" in override)
        choices.append((job and job.arm) or named.get("arm") or one.files.config.get("tracking", {}).get("arm"))
        stems.append(str(choices[-1] or _unnamed(one, named)))
        result = one.files.result
        seeds.append(result.seed if result else _seed(one.files.config.get("seed", named.get("seed"))))
    arms = distinct_names(stems, [seedless(one.files.config) if one.files.config else {} for one in found])
    if plan:
        arms = _told_by_plan(plan, arms, of_plan, [bool(one.files.config) for one in found])
    return [
        RunFolder(
            folder=one.place,
            status=one.files.status,
            run_id=run_id,
            config=one.files.config,
            result=one.files.result,
            reason=one.files.reason,
            arm=arm,
            choice=choice,
            seed=seed,
            updated=one.updated,
        )
        for one, run_id, arm, choice, seed in zip(found, ids, arms, choices, seeds, strict=True)
    ]


def _told_by_plan(
    plan: SweepPlan, arms: Sequence[str], jobs: Sequence[PlannedJob | None], configured: Sequence[bool]
) -> list[str]:
    # A run without a configuration is in the row of its other seeds, or called by what its job was told. So is one
    # that alone of its arm has a configuration, while the plan has other settings of it.
    names = plan.names
    known = {job.setting: arm for arm, job, sure in zip(arms, jobs, configured, strict=True) if job and sure}
    open_arms = {job.arm for job in plan.jobs if job.setting not in known}
    told = {arm: names[setting] for setting, arm in reversed(known.items()) if arm in open_arms}
    rows = []
    for arm, job, sure in zip(arms, jobs, configured, strict=True):
        row = known.get(job.setting, names[job.setting]) if job and not sure else arm
        rows.append(told.get(row, row) if job or sure else row)
    return rows


def missing_arms(plan: SweepPlan, runs: Sequence[RunFolder]) -> list[tuple[str, PlannedJob]]:
    """The jobs of a sweep that have no folder yet, with what their rows are called.

    Args:
        plan: Of the sweep.
        runs: That are there.

    Returns:
        (arm, job) each: the arm of the runs that differ in their seed alone, otherwise what the plan calls it.
    """
    jobs = {job.run_id: job for job in plan.jobs}
    known = {jobs[run.run_id].setting: run.arm for run in runs if run.run_id in jobs}
    names, missing = plan.names, plan.missing([run.run_id for run in runs])
    return [(known.get(job.setting, names[job.setting]), job) for job in missing]


def planned_jobs(folders: Sequence[Path]) -> SweepPlan | None:
    """The jobs that the sweeps in some folders should have.

    Args:
        folders: As for `run_folders`; of a run's own folder none is asked for.

    Returns:
        All jobs; None where no sweep wrote them down.

    Raises:
        RunError: If a folder does not exist, or a list is damaged.
    """
    places = [place for folder in folders for place, runs in _walk(folder) if not runs]
    found = [place / SWEEP for place in places if (place / SWEEP).is_file()]
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
    if {"method", "rank_policy"} <= set(config):  # others than ours may be in a W&B project
        return stem(config)
    return " ".join(f"{option}={value}" for option, value in named.items() if option != "seed") or one.place.name


def _seed(said: Any) -> int | None:
    return int(said) if str(said).lstrip("-").isdigit() else None
