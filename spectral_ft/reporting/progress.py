"""How far the runs of a sweep are, and how long the rest will take."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from spectral_ft.reporting.records import RunFolder, missing_arms
from spectral_ft.reporting.sweep_plan import SweepPlan
from spectral_ft.reporting.table_cells import NOTHING, duration
from spectral_ft.reporting.terminal import as_text

STATES = ("finished", "running", "failed", "cut", "damaged", "missing")


@dataclass(frozen=True)
class Job:
    """One run that there is, or should be."""

    arm: str
    seed: int | None
    run_id: str | None
    state: str
    """One of `STATES`."""
    step: int | None
    """Last of the training that was written down; None before the first."""
    share: float | None
    """Of the training that is done, in [0, 1]; None where its length is not known."""
    seconds: float | None
    """That a finished run took."""
    reason: str | None


def jobs(runs: Sequence[RunFolder], plan: SweepPlan | None) -> list[Job]:
    """The runs that there are, and those that are missing.

    Args:
        runs: As their folders say.
        plan: The jobs that there should be; None where no sweep wrote them down.

    Returns:
        By arm and seed.
    """
    there = []
    for run in runs:
        step, share = _trained(run)
        seconds = None
        if run.result:
            # A run that was cut took longer than the call that finished it.
            seconds = max(run.result.seconds, run.result.train["seconds"] if run.result.train else 0.0)
        there.append(Job(run.arm, run.seed, run.run_id, run.status, step, share, seconds, run.reason))
    missing = missing_arms(plan, runs) if plan else []
    there += [Job(arm, job.seed, job.run_id, "missing", None, None, None, None) for arm, job in missing]
    return sorted(there, key=lambda job: (job.arm, job.seed is None, job.seed))


def seconds_left(found: Sequence[Job]) -> float | None:
    """How long the rest will take: each as long as the finished ones of its arm took, or else as all of them did.

    Args:
        found: As `jobs` gives them.

    Returns:
        Seconds, with as many at a time as run now, at least one; None where none is finished.
    """
    done = [job for job in found if job.seconds is not None]
    if not done:
        return None
    total = 0.0
    for job in found:
        if job.state != "finished":
            alike = [other for other in done if other.arm == job.arm] or done
            expected = sum(other.seconds or 0.0 for other in alike) / len(alike)
            goes_on = job.state in {"running", "cut"}
            total += expected * (1 - (job.share or 0.0) if goes_on else 1.0)
    return total / max(1, sum(job.state == "running" for job in found))


def progress_table(found: Sequence[Job]) -> str:
    """How far the runs are, for a terminal.

    Args:
        found: As `jobs` gives them.

    Returns:
        A line a run, then how many are in which state and how long the rest will take.
    """
    table = Table()
    for heading in ("arm", "seed", "run", "state", "training", "time", "why"):
        table.add_column(heading, justify="right" if heading in {"seed", "training", "time"} else "left")
    for job in found:
        table.add_row(
            escape(job.arm),
            NOTHING if job.seed is None else str(job.seed),
            job.run_id or NOTHING,
            job.state,
            _training(job),
            NOTHING if job.seconds is None else duration(job.seconds),
            escape(job.reason or ""),
        )
    counts = {state: sum(job.state == state for job in found) for state in STATES}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    left = seconds_left(found)
    if counts["finished"] == len(found):
        rest = "nothing is left to do"
    elif left is None:
        rest = "how long the rest takes is known when a run is finished"
    else:
        rest = f"about {duration(left)} left"
    return as_text(table) + f"{said}; {rest}\n"


def _training(job: Job) -> str:
    if job.step is None:
        return NOTHING
    return f"step {job.step}" if job.share is None else f"step {job.step}, {100 * job.share:.0f} %"


def _trained(run: RunFolder) -> tuple[int | None, float | None]:
    # The last step of the log, and the share of the training that it is.
    last = _last_row(run.folder / "train.jsonl")
    if last is None:
        return None, None
    step = int(last["step"])
    if run.result:
        return step, 1.0
    training = run.config.get("training", {})
    if most := training.get("max_steps"):
        return step, min(step / most, 1.0)
    if (epochs := training.get("epochs")) and "epoch" in last:
        return step, min(last["epoch"] / epochs, 1.0)
    return step, None


def _last_row(path: Path) -> dict[str, float] | None:
    # The training may be writing: a line that is not whole does not count.
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # there is none, or nobody may look
        return None
    for line in reversed(text.splitlines()):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "step" in row:
            return row
    return None
