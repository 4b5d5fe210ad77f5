"""Which runs may stand in one table: each once, of one record format, made by one version of the code."""

from collections.abc import Sequence

from spectral_ft.errors import RunError
from spectral_ft.identity import RECORD_FORMAT
from spectral_ft.reporting.records import RunFolder
from spectral_ft.types import RunResult

SHORT = 10
"""Digits of a commit that are shown."""


def check_identities(runs: Sequence[RunFolder]) -> None:
    """Refuse a run that is there twice.

    Args:
        runs: Any.

    Raises:
        RunError: If two folders hold the same run.
    """
    seen: dict[str, RunFolder] = {}
    for run in runs:
        if run.run_id is None:
            continue
        if run.run_id in seen:
            raise RunError(
                f"{seen[run.run_id].folder} and {run.folder} are the same run, {run.run_id}: give one of them."
            )
        seen[run.run_id] = run


def mixed(runs: Sequence[RunFolder], *, mix: bool) -> list[str]:
    """What of different origin stands in one table.

    Args:
        runs: Any; those without a record do not count.
        mix: Whether that was asked for.

    Returns:
        A sentence each: of record formats, versions and commits.

    Raises:
        RunError: If there is such a difference and it was not asked for.
    """
    notes = []
    for what, of in (("record format", _format), ("version of spectral_ft", _version), ("commit", _commit)):
        found: dict[str, RunFolder] = {}
        for run in runs:
            if run.result and (said := of(run.result)):
                found.setdefault(said, run)
        if len(found) < 2:
            continue
        (one, first), (two, other), *_ = found.items()
        said = f"the runs are not of one {what}: {first.folder} has {one}, {other.folder} has {two}"
        if not mix:
            raise RunError(f"{said}. Give runs of one, or --mix to show them in one table all the same.")
        notes.append(f"mixed: {said}.")
    if any(run.result and run.result.format != RECORD_FORMAT for run in runs) and not notes:
        notes.append(f"the records are of an older format; this version writes {RECORD_FORMAT}.")
    return notes


def _format(result: RunResult) -> str:
    return str(result.format)


def _version(result: RunResult) -> str | None:
    return result.versions.get("spectral_ft")


def _commit(result: RunResult) -> str | None:
    commit, changed, _ = (result.git_commit or "").partition("+")
    return f"{commit[:SHORT]}{changed and ' with changes'}" or None
