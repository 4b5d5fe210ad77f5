"""`python -m spectral_ft.report FOLDER... [--table md|tex|csv] [--status] [--verify]`: what runs and sweeps came to.

Reads records and writes tables, the progress, or one HTML page. The options are no experiment, so Hydra has no part in
it.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from spectral_ft.errors import ConfigError, RunError, SpectralFTError
from spectral_ft.spelling import printable

if TYPE_CHECKING:
    from spectral_ft.reporting.records import Found, RunFolder
    from spectral_ft.reporting.sweep_plan import SweepPlan

PAGE = "report.html"
REMOTE = "wandb:"
"""What a W&B project begins with where a folder is asked for."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong as every other command does."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Args:
            message: What is wrong with it.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{message}; --help tells the options.")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments: Folders and options.

    Returns:
        `sources`, `table`, `status`, `verify`, `baseline`, `mix` and `out`.

    Raises:
        ConfigError: If an option is unknown, missing or does not go with the others.
    """
    parser = Parser(
        prog="python -m spectral_ft.report",
        description="What runs and sweeps came to: without --table and --status, as one HTML page.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="FOLDER",
        help=f"of a run, of a sweep, or above them; or {REMOTE}ENTITY/PROJECT[/GROUP], which W&B has",
    )
    parser.add_argument("--table", choices=("md", "tex", "csv"), help="arms by tasks, as Markdown, LaTeX or CSV")
    parser.add_argument(
        "--status", action="store_true", help="what is done, running, failed and missing, and time left"
    )
    parser.add_argument(
        "--verify", action="store_true", help="whether every file is as it was written: reads all of them as a whole"
    )
    parser.add_argument("--baseline", metavar="ARM", help="row of the table that the others are compared with")
    parser.add_argument(
        "--mix", action="store_true", help="records of different formats and code versions in one table"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"of table or page; default: printed, {PAGE} in FOLDER"
    )
    options = parser.parse_args(arguments)
    for name in ("baseline", "mix"):
        if getattr(options, name) and not options.table:
            raise ConfigError(f"--{name} is for a table: give --table md, tex or csv too.")
    if options.out and options.status and not options.table:
        raise ConfigError("--out is for a table or the page: --status is printed.")
    if options.out and options.out.is_dir():
        raise ConfigError(f"--out {options.out} is a folder: give a file.")
    return options


def job(options: argparse.Namespace) -> None:
    """One report.

    Args:
        options: Of the command line.
    """
    runs, plan = _found(options.sources)
    if options.verify:
        _verify(runs)
    if options.status:
        from spectral_ft.reporting.progress import jobs, progress_table

        print(progress_table(jobs(runs, plan)), end="")
    if options.table:
        _write_table(runs, plan, options)
    if not options.status and not options.table and not options.verify:
        from spectral_ft.reporting.page import write_page

        first = options.sources[0]
        out = options.out or (Path() if first.startswith(REMOTE) else Path(first).expanduser()) / PAGE
        print(write_page(runs, plan, out))


def _verify(runs: "list[RunFolder]") -> None:
    from spectral_ft.run_folder import verified

    wrong = 0
    for run in runs:
        if not run.folder.is_dir():
            print(f"{run.folder}: it is not on this machine")
            continue
        found = verified(run.folder, whole=True)
        wrong += bool(found.damaged)
        said = {
            "damaged or edited": found.damaged,
            "not verified, since no manifest lists them": found.unknown,
            "removed": found.missing,
        }
        notes = [f"{what}: {', '.join(names)}" for what, names in said.items() if names]
        print("; ".join([f"{run.folder}: {len(found.whole)} files are as they were written", *notes]))
    if wrong:
        raise RunError(
            f"{wrong} of {len(runs)} runs have damaged or edited files. Put copies back, or call the command of "
            "the run again, which makes them again or says what to do."
        )


def _found(sources: Sequence[str]) -> "tuple[list[RunFolder], SweepPlan | None]":
    from spectral_ft.reporting.records import found_runs, named_runs, planned_jobs

    folders = [Path(source).expanduser() for source in sources if not source.startswith(REMOTE)]
    runs: dict[Path, Found] = {}
    for folder in folders:
        below = found_runs([folder])
        planned = planned_jobs([folder])
        if not below and not (planned and planned.jobs):
            raise RunError(f"{folder} holds no run: no result.json, run.json or failure.json is in it or below it.")
        runs |= {run.place.resolve(): run for run in below}
    remote = [run for source in sources if source.startswith(REMOTE) for run in _remote(source.removeprefix(REMOTE))]
    plan = planned_jobs(folders)
    return named_runs([*runs.values(), *remote], plan), plan


def _remote(project: str) -> "list[Found]":
    from spectral_ft.reporting.records import Found
    from spectral_ft.reporting.run_files import mirrored_run
    from spectral_ft.wandb_records import read_project

    return [
        Found(
            Path(run.place),
            mirrored_run(run.place, run.run_id, state=run.state, config=run.config, record=run.record, fault=run.fault),
            run.updated,
        )
        for run in read_project(project)
    ]


def _write_table(runs: "list[RunFolder]", plan: "SweepPlan | None", options: argparse.Namespace) -> None:
    from spectral_ft.reporting.result_table import result_table
    from spectral_ft.reporting.table_cells import cell_notes
    from spectral_ft.reporting.table_forms import FORMS
    from spectral_ft.storage import write_text

    table = result_table(runs, plan, baseline=options.baseline, mix=options.mix)
    text = printable(FORMS[options.table](table))
    if options.table == "csv":  # which has no place for them
        for note in cell_notes(table):
            print(printable(note), file=sys.stderr)
    if options.out:
        write_text(options.out, text)
        print(options.out)
    else:
        print(text, end="")


def main() -> None:
    """The command."""
    from spectral_ft.entry import QUIET, show_any_text

    show_any_text()

    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    try:
        job(parse(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output has seen enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (SpectralFTError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
