"""Sweeps by every launcher, and killed ones; oracle: the basic launcher in one go, record by record. Slow."""

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from spectral_ft.compose import build_experiment, composed
from tests.conftest import QUICK, REPOSITORY
from tests.test_kill import records

slow = [pytest.mark.slow, pytest.mark.timeout(900)]
GRID = ("method=lora", "rank_policy=uniform,snr_top", "seed=0,1")
SHORT = (*QUICK, "benchmark.limit=4", "figures=false", "tracking.mode=disabled")
MOMENTS = ((0.35, signal.SIGKILL), (0.5, signal.SIGTERM), (0.65, signal.SIGINT))
"""Of the time of the whole sweep after which a call is killed, give or take, and how."""
PLUGINS = {"joblib": "hydra_joblib_launcher", "submitit_local": "hydra_submitit_launcher", "ray": "hydra_ray_launcher"}
FEW = {
    "joblib": ["hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra.launcher.timeout_min=10", "hydra.launcher.cpus_per_task=1"],
    "ray": ["+hydra.launcher.ray.init.num_cpus=2"],
}


class Whole(NamedTuple):
    """A sweep in one go."""

    folder: Path
    seconds: float


def call(folder: Path, *given: str) -> subprocess.Popen[str]:
    """Start a sweep, with a cache of its own."""
    command = [sys.executable, "-m", "spectral_ft.run", "-m", f"hydra.sweep.dir={folder / 'sweep'}", *SHORT, *given]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SPECTRAL_FT_CACHE": str(folder / "cache")}
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    _, told = process.communicate(timeout=800)
    assert process.returncode == 0, told[-3000:]
    return told


def all_records(folder: Path) -> dict[str, Any]:
    return {path.parent.name: list(records(path.parent)) for path in sorted((folder / "sweep").glob("*/result.json"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    start = time.monotonic()
    finish(call(folder, *GRID))
    return Whole(folder, time.monotonic() - start)


def needs(launcher: str) -> None:
    pytest.importorskip(f"hydra_plugins.{PLUGINS[launcher]}", reason=f"hydra/launcher={launcher} is not installed")


@pytest.mark.parametrize("launcher", [pytest.param(name, marks=slow) for name in PLUGINS])
def test_a_launcher_leaves_the_records_of_the_basic_one(launcher: str, whole: Whole, tmp_path: Path) -> None:
    needs(launcher)
    given = [*GRID, f"hydra/launcher={launcher}", *FEW[launcher]]
    finish(call(tmp_path, *given))
    assert len(all_records(tmp_path)) == 4
    assert all_records(tmp_path) == all_records(whole.folder)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").glob("*/result.json")}
    finish(call(tmp_path, *given))
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


@pytest.mark.parametrize("launcher", [pytest.param(name, marks=slow) for name in PLUGINS])
def test_a_job_that_fails_in_a_worker_is_told(launcher: str, tmp_path: Path) -> None:
    needs(launcher)
    given = ["budget=match", "method=prefix,lora", f"hydra/launcher={launcher}", *FEW[launcher]]
    process = call(tmp_path, *given)
    _, told = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "error: 1 of 2 jobs failed" in told and "method=prefix has no ranks" in told.splitlines()[-1]
    (failed,) = (tmp_path / "sweep").glob("*/failure.json")
    assert json.loads(failed.read_text())["type"] == "ConfigError"
    assert len(all_records(tmp_path)) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_killed_at_three_moments_ends_like_one_that_was_not(whole: Whole, tmp_path: Path) -> None:
    chance = random.Random("sweep")
    kept: dict[Path, int] = {}
    for share, number in MOMENTS:
        killed = call(tmp_path, *GRID)
        try:
            killed.communicate(timeout=whole.seconds * share * chance.uniform(0.7, 1.3))
        except subprocess.TimeoutExpired:
            killed.send_signal(number)
            killed.communicate(timeout=120)
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
        kept = stamps(tmp_path)
    finish(call(tmp_path, *GRID))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert kept, "every call was killed before its first job ended"
    assert all_records(tmp_path) == all_records(whole.folder)
    assert not list((tmp_path / "sweep").rglob("failure.json"))


WORKER = """
import os, sys, time
from types import SimpleNamespace
from unittest.mock import patch
from spectral_ft import entry
parent, (file, launcher) = os.getpid(), sys.argv[1:]
if os.fork():
    time.sleep(60)
config = SimpleNamespace(launcher=SimpleNamespace(_target_=launcher))
with patch.object(entry.HydraConfig, "get", lambda: config):
    watched = entry._ends_with(parent)
try:
    open(file + ".ready", "w").close()
    time.sleep(1.5)
    end = "went on"
except KeyboardInterrupt as stop:
    end = f"{type(stop).__name__} {stop.number}"
with open(file + ".end", "w") as written:
    written.write(end)
"""
"""A process with a child, which is a worker of its sweep; both wait."""


@pytest.mark.parametrize(
    ("launcher", "end"),
    [
        ("hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher", f"Interrupted {signal.SIGTERM}"),
        ("hydra._internal.core_plugins.basic_launcher.BasicLauncher", "went on"),
    ],
)
def test_a_worker_of_joblib_ends_with_its_killed_parent(launcher: str, end: str, tmp_path: Path) -> None:
    file = tmp_path / "worker"
    parent = subprocess.Popen([sys.executable, "-c", WORKER, str(file), launcher], cwd=REPOSITORY)
    wait_for(lambda: file.with_suffix(".ready").exists(), seconds=100)
    parent.kill()
    parent.wait()
    wait_for(lambda: file.with_suffix(".end").exists() and file.with_suffix(".end").read_text(), seconds=20)
    assert file.with_suffix(".end").read_text() == end


def wait_for(condition: Callable[[], object], *, seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"not within {seconds} s"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_trainings_of_a_joblib_sweep_end_with_its_killed_parent_and_leave_checkpoints(tmp_path: Path) -> None:
    needs("joblib")
    given = [*GRID, "hydra/launcher=joblib", *FEW["joblib"], "training.max_steps=2000", "training.save_steps=2000"]
    parent = call(tmp_path, *given)
    jobs = tmp_path / "sweep"
    wait_for(lambda: len(list(jobs.glob("*/train.jsonl"))) == 2, seconds=400)
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert len(workers) >= 2
    parent.kill()
    parent.wait(120)
    _, alive = psutil.wait_procs(workers, timeout=120)
    try:
        assert not alive
        assert len(list(jobs.glob("*/checkpoints/*/complete.json"))) == 2
        assert not list(jobs.glob("*/result.json"))
    finally:
        for process in alive:
            process.kill()


def stamps(folder: Path) -> dict[Path, int]:
    """When the files of finished jobs were written."""
    done = [path.parent for path in (folder / "sweep").glob("*/result.json")]
    return {path: path.stat().st_mtime_ns for run in done for path in run.rglob("*.json*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_makes_the_same_trials_again(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="the extra `sweeps` is not installed")
    given = ["experiment=hpo", "scale=tiny", "training.warmup_steps=1"]
    finish(call(tmp_path, *given, "hydra.sweeper.n_trials=2"))
    first = stamps(tmp_path)
    jobs = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["jobs"]
    assert {job["run_id"] for job in jobs} == set(all_records(tmp_path)) and len(jobs) == 2
    finish(call(tmp_path, *given, "hydra.sweeper.n_trials=3"))
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert len(all_records(tmp_path)) == 3


def commands() -> list[str]:
    text = (REPOSITORY / "docs" / "sweeps.md").read_text().replace("\\\n", " ")
    return re.findall(r"^(?:\w+=\S+ )?python -m spectral_ft\.run (.*)$", text, flags=re.M)


@pytest.mark.parametrize("arguments", commands())
def test_the_commands_of_the_page_on_sweeps_are_understood(arguments: str) -> None:
    words = [word for word in shlex.split(arguments) if "=" in word]
    for word in words:
        if word.startswith(("hydra/launcher=", "experiment=hpo")):
            plugin = PLUGINS.get(word.partition("=")[2].replace("slurm", "local"), "hydra_optuna_sweeper")
            pytest.importorskip(f"hydra_plugins.{plugin}", reason=f"{word} comes with an extra that is not installed")
    assert build_experiment(composed([word.split(",")[0] for word in words])).run_id
