"""Every run and what became of it, missing ones of a sweep included."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from spectral_ft.reporting.mixing import mixed
from spectral_ft.reporting.page.arms import Arm
from spectral_ft.reporting.page.texts import NONE, time_text
from spectral_ft.reporting.page.views import Section, Table
from spectral_ft.reporting.records import RunFolder, missing_arms
from spectral_ft.reporting.sweep_plan import SweepPlan

ORDER = ("finished", "running", "failed", "cut", "damaged", "missing")
SIGNS = {"finished": "✓", "running": "…", "failed": "✗", "cut": "✂", "damaged": "!", "missing": "?"}
"""Beside the word, to be found at a glance."""


def counts_text(runs: Sequence[RunFolder], sweep: SweepPlan | None) -> str:
    """How many runs are in which state.

    Args:
        runs: Those that have a folder.
        sweep: What there should be; None where nothing says it.

    Returns:
        `3 finished, 1 failed`.
    """
    counts = Counter[str](run.status for run in runs)
    counts["missing"] = len(sweep.missing(run.run_id for run in runs)) if sweep else 0
    return ", ".join(f"{counts[status]} {status}" for status in ORDER if counts[status])


def overview_section(arms: Sequence[Arm], sweep: SweepPlan | None) -> Section:
    """All runs.

    Args:
        arms: With their runs.
        sweep: What there should be; None where nothing says it.

    Returns:
        Those without a record with the reason, then all of them, to be opened.
    """
    runs = [run for arm in arms for run in arm.runs]
    missing = missing_arms(sweep, runs) if sweep else []
    without = [
        (run.arm, _seed(run.seed), _state(run.status), run.reason or NONE, run.run_id or run.folder.name)
        for run in runs
        if run.result is None
    ]
    without += [(arm, _seed(job.seed), _state("missing"), "it has not begun.", job.run_id) for arm, job in missing]
    every = tuple(
        (run.arm, _seed(run.seed), _state(run.status), run.run_id or run.folder.name, _took(run), _when(run.updated))
        for run in runs
    )
    headings = ("arm", "seed", "state", "why", "run")
    tables = (Table("runs without a record", headings, tuple(without), words=5),) if without else ()
    columns = ("arm", "seed", "state", "run", "took", "last written")
    return Section(
        id="runs",
        title="Runs",
        lead=f"{counts_text(runs, sweep)}.",
        tables=tables,
        notes=tuple(mixed(runs, mix=True)),
        folded=(Table("all runs that have a folder", columns, every, words=4),) if every else (),
    )


def _state(status: str) -> str:
    return f"{SIGNS[status]}\N{NO-BREAK SPACE}{status}"


def _seed(seed: int | None) -> str:
    return NONE if seed is None else str(seed)


def _took(run: RunFolder) -> str:
    return NONE if run.result is None else time_text(run.result.seconds)


def _when(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")
