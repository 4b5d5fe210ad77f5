"""With what the runs were made, and the commands that make them again."""

import shlex
from collections.abc import Sequence

from spectral_ft.reporting.page.arms import Arm
from spectral_ft.reporting.page.texts import NONE, joined
from spectral_ft.reporting.page.views import Section, Table
from spectral_ft.reporting.sweep_plan import SweepPlan

COMMAND = "python -m spectral_ft.run"
COMMANDS = 40
"""Shown, at most."""


def reproduction_section(arms: Sequence[Arm], sweep: SweepPlan | None) -> Section:
    """Versions, machines, commands.

    Args:
        arms: With their runs.
        sweep: Whose overrides are the commands; None where nothing says them.

    Returns:
        The section.
    """
    runs = [run for arm in arms for run in arm.finished]
    results = [run.result for run in runs if run.result]
    facts = [
        ("git commit", joined([result.git_commit or "unknown" for result in results])),
        ("machine", joined([", ".join(f"{key} {value}" for key, value in r.machine.items()) for r in results])),
        ("record format", joined([str(result.format) for result in results])),
        ("harness", joined([score.harness_version for result in results for score in result.scores])),
    ]
    packages = dict.fromkeys(name for result in results for name in result.versions)
    facts += [(name, joined([result.versions.get(name, NONE) for result in results])) for name in packages]
    differing = [name for name, text in facts if "; " in text]
    notes = [f"Runs differ in {', '.join(differing)}."] if differing else []
    commands = tuple(f"{COMMAND} {shlex.join(job.overrides)}" for job in sweep.jobs) if sweep else ()
    whole = tuple(f"{COMMAND} {shlex.join(said)}" for said in sweep.commands) if sweep else ()
    commands = (*whole, *commands)
    if len(commands) > COMMANDS:
        notes.append(f"{len(commands) - COMMANDS} more commands are in the sweep's sweep.json.")
    if not commands:
        notes.append("No sweep.json says the commands; the configuration of each run is in its run.json.")
    return Section(
        id="reproduce",
        title="To make it again",
        lead=_lead(len(whole)),
        tables=(Table("versions", ("what", "version"), tuple(facts), words=2),) if results else (),
        commands=commands[:COMMANDS],
        notes=tuple(notes),
    )


def _lead(whole: int) -> str:
    if not whole:
        return ""
    first = "The first command is" if whole == 1 else f"The first {whole} commands are"
    return f"{first} the whole sweep, which leaves finished runs as they are; the others are its jobs."
