"""A sweep: which jobs it has, and which of them did not end well; one that fails does not stop the others.

`sweep.json` in the sweep's folder says from the start which runs there shall be, `failure.json` in a run's folder why
there is no record. Both are files, so that they also come from workers and from other machines. Several sweeps may
share a folder, one after another or at once: each adds its jobs to the list, and tells at its end of these alone.

Known gap: a search (Optuna) decides from the scores what comes next, so its jobs are added as they begin.
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from spectral_ft.compose import plain
from spectral_ft.errors import Damaged, RunError
from spectral_ft.identity import run_id
from spectral_ft.processes import is_first
from spectral_ft.reporting.sweep_plan import LOST, SWEEP, PlannedJob, SweepPlan, merged
from spectral_ft.run_folder import FAILURE, FINISHED, note_failure
from spectral_ft.spelling import printable
from spectral_ft.storage import read_json, write_json

log = logging.getLogger(__name__)


class Sweep(Callback):
    """Hydra's callback around a sweep: writes down the jobs before the first, tells the failed ones after the last."""

    def __init__(self, recorded: bool, call: str) -> None:
        """Remember whose sweep it is.

        Args:
            recorded: Whether the command's jobs leave records that could be missed.
            call: Name of this sweep; its jobs have it too, whichever process they are in.
        """
        self._counts, self._call = recorded and is_first(), call
        self._planned: tuple[PlannedJob, ...] = ()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Write down which jobs there will be, as far as that is known.

        Args:
            config: Of the sweep.
            **kwargs: Not used.

        Raises:
            SystemExit: If the list of jobs is damaged.
        """
        logging.getLogger("hydra_plugins.hydra_optuna_sweeper._impl").addFilter(_without_value)
        if not self._counts:
            return
        try:
            jobs = self._planned = planned_jobs(config)
        except (HydraException, OmegaConfBaseException):
            return  # Hydra composes them again, and its error is explained
        folder = Path(config.hydra.sweep.dir)
        with _ending_on_damage():
            _add(folder, SweepPlan(_experiment(config.hydra), jobs, (tuple(sys.argv[1:]),)))
        if jobs:
            done = len({job.run_id for job in jobs} & finished_runs(folder))
            print(f"sweep of {len(jobs)} jobs in {folder}, of which {done} are done", file=sys.stderr)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Tell what failed, and end the process with 1 if something did.

        Args:
            config: Of the sweep.
            **kwargs: Not used.

        Raises:
            SystemExit: If a job left no record.
        """
        if not self._counts:
            return
        folder = Path(config.hydra.sweep.dir)
        with _ending_on_damage():
            known = _known(folder).jobs
        begun = [job for job in known if job.call == self._call]  # of a search all, of a grid the planned
        jobs = {job.run_id: job for job in (*self._planned, *begun)}
        if told := failures(folder, list(jobs.values())):
            print(printable("\n".join(told)), file=sys.stderr)
            raise SystemExit(1)


def _without_value(record: logging.LogRecord) -> bool:
    # Optuna sees only that a trial returned nothing; the reason is in the line of the job.
    text = record.getMessage()
    if "float-castable" not in text:
        return True
    record.msg, record.args = "the trial has no value: its job failed (see above), or it scores nothing", None
    return not text.startswith("Failed [")


def planned_jobs(config: DictConfig) -> tuple[PlannedJob, ...]:
    """The jobs of a sweep over a grid.

    Args:
        config: Of the sweep, as Hydra composed it.

    Returns:
        Its jobs, each once; none where the sweeper is a search.
    """
    if not str(config.hydra.sweeper._target_).endswith(BasicSweeper.__name__):
        return ()
    loader = GlobalHydra.instance().config_loader()
    said = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create(config_loader=loader).parse_overrides([*said, *config.hydra.overrides.task])
    (grid,) = BasicSweeper.split_arguments(overrides, None)
    bar = tqdm(grid, desc="composing the jobs", leave=False, disable=None)
    configs = (loader.load_sweep_config(config, list(one)) for one in bar)
    jobs = {job.run_id: job for job in (_job(one.hydra, one) for one in configs)}
    return tuple(jobs.values())


def note_job(config: DictConfig) -> None:
    """Add the job that is beginning to those that its sweep shall have, where it is not among them.

    Args:
        config: Of the job, without Hydra's part.
    """
    hydra = HydraConfig.get()
    _add(Path(hydra.sweep.dir), SweepPlan(_experiment(hydra), (_job(hydra, config),)))


def failed_job(config: DictConfig, error: Exception, sentence: str) -> None:
    """Leave a word about a job that failed, so that the sweep can go on.

    It has no objective, which Optuna takes for a failed trial; a NaN would end the search.

    Args:
        config: Of the job.
        error: What ended it.
        sentence: What a user is told.
    """
    overrides = [str(override) for override in HydraConfig.get().overrides.task]
    log.error("failed: %s (%s)", printable(sentence), " ".join(overrides))
    if not is_first():
        return
    try:
        note_failure(
            Path(HydraConfig.get().runtime.output_dir),
            run_id(plain(config)),
            sentence=sentence,
            kind=type(error).__name__,
            overrides=overrides,
        )
    except (RunError, OSError) as why:  # the folder is another's, or the disk is full
        log.info("not noted there: %s", why)


def finished_runs(folder: Path) -> set[str]:
    """The runs of a sweep that are done.

    Args:
        folder: Of the sweep.

    Returns:
        Their identities.
    """
    return {str(_read(path).get("run_id")) for path in folder.rglob(FINISHED)}


def failures(folder: Path, jobs: Sequence[PlannedJob]) -> list[str]:
    """What a sweep lacks when it has ended.

    Args:
        folder: Of the sweep.
        jobs: That it had.

    Returns:
        Lines for a terminal: how many jobs, and each with its reason; none where every job left its record.
    """
    done = finished_runs(folder)
    noted = {said.get("run_id"): said.get("error") for said in map(_read, folder.rglob(FAILURE))}
    unknown = "it left no record, and no word why: it was killed, or another process is working on it"
    missing = [job for job in jobs if job.run_id not in done]
    if not missing:
        return []
    rows = [f"  {job.run_id} ({' '.join(job.overrides)}): {noted.get(job.run_id) or unknown}" for job in missing]
    return [
        f"error: {len(missing)} of {len(jobs)} jobs failed; the same command repeats these alone.",
        *rows,
    ]


@contextmanager
def _ending_on_damage() -> Iterator[None]:
    # Hydra would only warn of an error in a callback.
    try:
        yield
    except Damaged as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error


def _job(hydra: Any, config: DictConfig) -> PlannedJob:
    said, arm = tuple(hydra.overrides.task), hydra.runtime.choices.get("arm")
    return PlannedJob(run_id(plain(config)), said, arm, config.seed, call=hydra.callbacks.sweep.call)


def _experiment(hydra: Any) -> str | None:
    return hydra.runtime.choices.get("experiment")


def _add(folder: Path, plan: SweepPlan) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / f".{SWEEP}.lock"):
        known = _known(folder)
        if (both := merged([known, plan])) != known:
            write_json(folder / SWEEP, both, home=folder)


def _known(folder: Path) -> SweepPlan:
    path = folder / SWEEP
    return read_json(path, SweepPlan, way_out=LOST) if path.exists() else SweepPlan(None, ())


def _read(path: Path) -> dict[str, Any]:
    # A file that is missing or damaged says nothing; the job that needs it says so in its own words.
    try:
        return read_json(path, dict)
    except (RunError, FileNotFoundError):
        return {}
