"""What many tests need: a cache of their own, the command called in this process, small models."""

import gc
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

gc.set_threshold(100_000, 50, 1000)  # imported modules are most of what it would look through
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")  # no test may wait for a network
os.fsync = lambda _: None  # nor for a disk, which would be a tenth of a second a run

REPOSITORY = Path(__file__).parents[1]
EMBEDDED = REPOSITORY / "spectral_ft" / "models" / "tiny"
SHARED = REPOSITORY.parent / "shared"
QUICK = ("training.max_steps=6", "training.save_steps=2", "training.logging_steps=1", "dataset.limit=64")
"""A training of a second on the embedded model."""


class Called(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test reads or writes the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["SPECTRAL_FT_CACHE"] = str(folder)
    os.environ["WANDB_MODE"] = "disabled"
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets, where they lie beside the repository."""
    if not (SHARED / "data").is_dir():
        pytest.skip("../shared/data is not here")
    return SHARED / "data"


def call_entry(main: Callable[[], None], *arguments: str) -> int:
    """Call an entry as its command would be; returns the exit code."""
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    before, full = sys.argv, os.environ.pop("HYDRA_FULL_ERROR", None)
    sys.argv = ["command", *arguments]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
        os.environ.pop("HYDRA_FULL_ERROR", None)
        if full is not None:
            os.environ["HYDRA_FULL_ERROR"] = full
    return 0


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Called]:
    """Calls `spectral_ft.run` in this process, in an empty working directory."""
    from spectral_ft import run

    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)

    def call(*overrides: str) -> Called:
        capfd.readouterr()
        code = call_entry(run.main, "tracking.mode=disabled", *overrides)
        return Called(code, *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run: spectral allocation, six steps, eight items."""
    from spectral_ft import run

    folder = tmp_path_factory.mktemp("finished") / "run"
    options = (*QUICK, "benchmark.limit=8", "rank_policy=snr_top", "tracking.mode=disabled")
    assert call_entry(run.main, f"hydra.run.dir={folder}", *options) == 0
    return folder


@pytest.fixture
def checkpoint_copy(tmp_path: Path) -> Path:
    """A copy of the embedded model that a test may damage."""
    return Path(shutil.copytree(EMBEDDED, tmp_path / "checkpoint"))


def edit_json(path: Path, **changes: object) -> None:
    """Change some keys of a JSON file, as if it had been written so."""
    from spectral_ft.storage import MANIFEST, enter

    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    if (path.parent / MANIFEST).exists():
        enter(path.parent, path.name)
