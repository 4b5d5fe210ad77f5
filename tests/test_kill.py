"""Runs that are killed at any moment and called again; oracle: the same run, never cut, bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

METHODS = {
    "lora": ("method=lora", "rank_policy=snr_top", "method.dropout=0.1"),
    "adalora": ("method=adalora", "method.initial_factor=2.0", "method.interval=2"),
    "alors": ("method=alors", "method.rounds=2"),
    "eva": ("method=eva",),
    "sgm": (
        "method=sgm",
        "grouping.similarity=gram",
        "grouping.threshold=0.05",
        "grouping.snr_threshold=1.0",
        "rank_policy=uniform",
    ),
}
"""Methods to the options that let them do what they do."""
QUICK = (
    "training.max_steps=16",
    "training.save_steps=4",
    "training.logging_steps=3",
    "training.validation_steps=8",
    "training.keep_best=true",
    "dataset.limit=200",
    "dataset.validation=40",
    "benchmark.limit=16",
    "figures=false",
    "tracking.mode=disabled",
)
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
KEPT = ("spectrum.parquet", "probe.safetensors", "overlap.json", "losses.json", "train.json")
"""What a finished stage leaves; it is not written again. `scores.json` grows: the base's scores, then the others."""
MOMENTS = [(method, moment) for method in METHODS for moment in range(5)]


class Whole(NamedTuple):
    """A run that was never cut."""

    folder: Path
    began: float  # seconds from the start of the process until the first file
    ended: float


def options(method: str) -> tuple[str, ...]:
    """Rounds do not go with the best weights."""
    kept = [each for each in QUICK if method != "alors" or "keep_best" not in each]
    return (*METHODS[method], *kept)


def command(method: str, folder: Path) -> list[str]:
    return [sys.executable, "-m", "spectral_ft.run", f"hydra.run.dir={folder / 'run'}", *options(method)]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "SPECTRAL_FT_CACHE": str(folder / "cache")}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def run(method: str) -> Whole:
        folder = tmp_path_factory.mktemp(method)
        start = time.monotonic()
        process = subprocess.Popen(command(method, folder), env=environment(folder), stderr=subprocess.PIPE, text=True)
        while not (folder / "run" / "run.json").exists() and process.poll() is None:
            time.sleep(0.01)
        began = time.monotonic() - start
        _, told = process.communicate(timeout=300)
        assert process.returncode == 0, told[-2000:]
        return Whole(folder / "run", began, time.monotonic() - start)

    return run


@pytest.mark.parametrize(("method", "moment"), MOMENTS)
def test_a_killed_run_ends_like_one_that_was_not(method: str, moment: int, whole_run: Any, tmp_path: Path) -> None:
    whole: Whole = whole_run(method)
    chance = random.Random(f"{method} {moment}")
    after = chance.uniform(whole.began, whole.ended)
    number = SIGNALS[moment % len(SIGNALS)]
    killed = subprocess.Popen(command(method, tmp_path), env=environment(tmp_path), stderr=subprocess.PIPE, text=True)
    try:
        _, told = killed.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        killed.send_signal(number)
        _, told = killed.communicate(timeout=120)
        assert killed.returncode in (-number, 128 + number, 0), told[-2000:]
        done = (tmp_path / "run" / "result.json").exists()  # and the interpreter was ending
        assert number == signal.SIGKILL or done or "the same command goes on" in told
    run = tmp_path / "run"
    kept = (*KEPT, "adapter/*") if (run / "train.json").exists() else KEPT
    scored = scores(run)
    if {score["stage"] for score in scored} == {"base", "tuned"}:
        kept = (*kept, "scores.json")
    finished = {path: path.stat().st_mtime_ns for pattern in kept for path in run.glob(pattern)}
    steps = max((int(path.parent.name.split("-")[1]) for path in run.glob("checkpoints/*/complete.json")), default=0)
    again = subprocess.run(
        command(method, tmp_path), env=environment(tmp_path), capture_output=True, text=True, timeout=300, check=False
    )
    assert again.returncode == 0, again.stderr[-2000:]
    if steps and (run / "train.json") not in finished:
        assert f"resuming the training at checkpoint-{steps}" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert scores(run)[: len(scored)] == scored
    assert list(records(run)) == list(records(whole.folder))
    mine, others = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (run, whole.folder))
    assert mine.keys() == others.keys()
    assert all(torch.equal(mine[key], tensor) for key, tensor in others.items())


def scores(run: Path) -> list[dict[str, Any]]:
    """Those that are finished."""
    file = run / "scores.json"
    return json.loads(file.read_text()) if file.exists() else []


def records(run: Path) -> Iterator[Any]:
    """What a run says, without what depends on the clock and on memory."""
    clock = ("seconds", "tokens_per_second", "samples_per_second", "peak_memory_bytes")
    record = json.loads((run / "result.json").read_text())
    yield {key: value for key, value in record["train"].items() if key not in clock}
    yield record["scores"]
    yield record["plan"]
    yield json.loads((run / "plan.json").read_text())
    for line in (run / "train.jsonl").read_text().splitlines():
        yield {key: value for key, value in json.loads(line).items() if key not in clock}
