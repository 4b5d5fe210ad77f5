"""What all Hydra entries share: help, sentences instead of tracebacks, exit codes.

Exit code 0: done. 1: something given was wrong, and a sentence says what. 130: Ctrl-C. 143: SIGTERM. 129: the terminal
was closed. 141: whoever read the output closed it.
"""

import errno
import gc
import io
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from spectral_ft.compose import register
from spectral_ft.configuration import CONF
from spectral_ft.errors import Interrupted, SpectralFTError
from spectral_ft.option_faults import explain
from spectral_ft.option_help import help_text
from spectral_ft.processes import is_first
from spectral_ft.spelling import printable
from spectral_ft.sweep import failed_job, note_job

if TYPE_CHECKING:
    from omegaconf import DictConfig

FULL = "HYDRA_FULL_ERROR"
FULL_DISK = ("No space left on device", "inline_container.cc", "PytorchStreamWriter failed writing file")
"""What a full disk is called by safetensors and by torch's writer, which keep the system's error to themselves."""
ANOTHER_PLACE = (
    "Give another folder (hydra.run.dir=DIR, for caches SPECTRAL_FT_CACHE=DIR and HF_HOME=DIR), or change its "
    "permissions; what was finished is kept."
)
SYSTEM = {
    errno.EACCES: ANOTHER_PLACE,
    errno.EPERM: ANOTHER_PLACE,
    errno.EROFS: ANOTHER_PLACE,
    errno.EFBIG: "A limit of this machine (`ulimit -f`) or its file system allows no larger file: raise it, or give "
    "another hydra.run.dir=DIR.",
    errno.ENAMETOOLONG: "Give a shorter path.",
    errno.EMFILE: "Raise `ulimit -n`.",
    errno.ENFILE: "The machine has too many files open: close some.",
    errno.EIO: "The disk or the network folder fails: call the same command again, or give another hydra.run.dir=DIR.",
    errno.ESTALE: "The network folder was replaced: call the same command again.",
    errno.ELOOP: "A link leads to itself: give another path.",
}
"""Of the system's errors, what can be done."""
QUIET = {
    "TOKENIZERS_PARALLELISM": "false",  # its threads do not survive the forks of data loaders
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "WANDB_SILENT": "true",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
KILLED = (
    "a worker of the sweep was killed, perhaps for want of memory. What was finished is kept: let fewer work at a time "
    "(docs/sweeps.md) and call the same command again."
)
OF_LAUNCHERS = frozenset({"TerminatedWorkerError", "UncompletedJobError", "FailedJobError", "WorkerCrashedError"})
"""Errors of joblib, submitit and ray, by name, since they may not be installed."""
NO_TRIAL = "No trials are completed yet"
"""What Optuna says where none has an objective."""
PARENT_SECONDS = 0.5
"""Between two looks of a worker at whether the sweep that started it still lives."""
GOES_ON = "interrupted; the same command goes on where this one stopped"
SELDOM = (100_000, 50, 1000)
"""The collector's thresholds: with Python's own (700, 10, 10) a tenth of a short command is spent on looking
through the millions of objects that importing torch and transformers makes and keeps."""


def hydra_entry(job: "Callable[[DictConfig], Any]", *, name: str, recorded: bool = False) -> None:
    """Compose the configuration from the command line and run the job; ends the process on errors.

    Args:
        job: What the entry does with a configuration.
        name: Of the entry, in `ENTRIES`.
        recorded: Whether each job leaves a record, so that a sweep can go on past one that fails and say what it lacks.
    """
    _prepare_process()
    # Hydra takes its flag only before the options or after them, not between.
    flags = [argument for argument in sys.argv[1:] if argument in {"-m", "--multirun"}]
    overrides = [argument for argument in sys.argv[1:] if argument not in flags]
    sys.argv[1:] = [*flags, *overrides]
    if {"-h", "--help"} & set(overrides):
        with _reader_may_leave():
            print(help_text(name), flush=True)
        return
    register()
    OmegaConf.register_new_resolver("recorded", lambda: recorded, replace=True)
    warnings.filterwarnings("ignore", category=FutureWarning, module="(transformers|peft|torch)")
    wants_traceback, started_by = os.environ.get(FULL) == "1", os.getpid()
    os.environ[FULL] = "1"  # Hydra would swallow the exception that is explained below
    sys.argv[0] = name

    def guarded(config: "DictConfig") -> Any:
        if not is_first():
            logging.getLogger("spectral_ft").setLevel(logging.WARNING)  # the first process tells for all
        sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
        worker = _ends_with(started_by)
        try:
            if sweeping and recorded and is_first():
                note_job(config)
            with _reader_may_leave():
                return job(config)
        except Interrupted as stop:
            _leave(stop) if worker else None
            raise
        except Exception as error:
            if not sweeping and isinstance(error, SpectralFTError):
                _fail(str(error))
            if not sweeping or not recorded:
                raise  # in sweeps of the other entries Hydra tells the overrides of the first failing job
            failed_job(config, error, _sentence(error, overrides) or _unexplained(error))
            return None
        finally:
            folder = Path(HydraConfig.get().runtime.output_dir)  # Hydra makes it before anything is checked
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(guarded)()
    except KeyboardInterrupt as stop:
        sys.exit(_told_code(stop))
    except Exception as error:
        if wants_traceback:
            raise
        _fail(_sentence(error, overrides) or _fault_of_ours())


def _fault_of_ours() -> str:
    traceback.print_exc()
    return "this is a fault of spectral_ft or of a library; the traceback above tells where"


def _leave(stop: Interrupted) -> NoReturn:
    # Out of a worker, which would take the next job otherwise.
    os._exit(_told_code(stop))


def _told_code(stop: KeyboardInterrupt) -> int:
    # The exit code, once the sentence is printed; a terminal that was closed takes none.
    told = stop if isinstance(stop, Interrupted) else Interrupted(signal.SIGINT, GOES_ON)
    with suppress(OSError):
        print(f"\n{told}", file=sys.stderr, flush=True)
    return 128 + told.number


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # whoever read the output has seen enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def show_any_text() -> None:
    """Let output show letters that the locale does not have as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _prepare_process() -> None:
    show_any_text()
    gc.set_threshold(*SELDOM)
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    if not is_first():
        os.environ["TQDM_DISABLE"] = "1"
    _catch_signals()


def _catch_signals() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            signal.signal(signal.SIGHUP, _terminated)


@cache
def _ends_with(parent: int) -> bool:
    # Whether this is a worker of a sweep by joblib, which is made to end, as by SIGTERM, when its parent has gone.
    if os.getpid() == parent or "joblib" not in str(HydraConfig.get().launcher._target_):
        return False
    _catch_signals()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)  # a training writes a checkpoint first

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
    return True


def _unexplained(error: Exception) -> str:
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error}"


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    # As Ctrl-C does it, so that files in the making are removed and locks are freed.
    del frame
    raise Interrupted(number, GOES_ON)


def _fail(sentence: str) -> NoReturn:
    print(f"error: {printable(sentence)}", file=sys.stderr)
    sys.exit(1)


def _sentence(error: BaseException | None, overrides: list[str]) -> str | None:
    # The first explanation along the chain of causes.
    while error is not None:
        if isinstance(error, SpectralFTError):
            return str(error)
        if type(error).__name__ in OF_LAUNCHERS:
            return KILLED
        if str(error).startswith(NO_TRIAL):
            return "every trial of the search failed, so that none is the best: the lines above say why."
        if text := _system_fault(error, overrides):
            return text
        if isinstance(error, Exception) and (text := explain(error, overrides)):
            return text
        error = error.__cause__ or error.__context__
    return None


def _system_fault(error: BaseException, overrides: list[str]) -> str | None:
    # Disks, permissions, locales; libraries in other languages give the number in their text alone.
    if isinstance(error, UnicodeEncodeError) or UnicodeEncodeError.__name__ in str(error):
        return (
            f"a path or an option has letters that this locale has not ({error}). Set PYTHONUTF8=1 or LC_ALL=C.UTF-8; "
            "rename a file whose name is not UTF-8."
        )
    code, path = getattr(error, "errno", None), getattr(error, "filename", None)
    if code is None and (match := re.search(r"\(os error (\d+)\)|\[Errno (\d+)\]", str(error))):
        code = int(match[1] or match[2])
    if code in {errno.ENOSPC, errno.EDQUOT} or any(mark in str(error) for mark in FULL_DISK):
        return (
            f"the disk is full, or a file reached a limit of size ({error}). What was finished is kept: free some "
            "space and call the same command again."
        )
    if code in SYSTEM:
        return f"{path or error}: {os.strerror(code)}. {SYSTEM[code]}"
    if code in {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR} and path is not None:
        named = [
            option for option in overrides if option.startswith("hydra.") and option.partition("=")[2] in str(path)
        ]
        if named:
            return f"{named[0]}: {path} cannot be a folder ({os.strerror(code)}): give another hydra.run.dir=DIR."
    return None
