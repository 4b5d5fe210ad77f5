"""Runs of two processes; oracle: the same run by one process."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from spectral_ft.composition import check_composition
from spectral_ft.errors import ConfigError
from spectral_ft.processes import WRAPPERS
from tests.conftest import REPOSITORY
from tests.test_compose import built

QUICK = (
    "training.max_steps=10",
    "training.save_steps=4",
    "training.logging_steps=1",
    "training.micro_batch_size=4",
    "dataset.limit=100",
    "dataset.validation=30",
    "benchmark.limit=8",
    "figures=false",
    "tracking.mode=disabled",
)
SETUPS = {
    "lora": ("method=lora", "training.batching=length"),
    "alors": ("method=alors",),
    "sgm": ("method=sgm", "grouping.threshold=0.05", "grouping.snr_threshold=1.0", "rank_policy=uniform"),
    "adalora": ("method=adalora", "method.interval=2", "dataset.limit=96"),  # whole batches: see docs/log.md
    "qlora": ("method=lora", "quantization=nf4"),
    "sharded lora": ("method=lora", "training.sharded=true"),
    "sharded sgm": (
        *("method=sgm", "grouping.threshold=0.05", "grouping.snr_threshold=1.0", "rank_policy=uniform"),
        "training.sharded=true",
    ),
    "recomputing": ("method=lora", "rank_policy.lowest_block=2", "training.activation_checkpointing=true"),
}


def start(
    folder: Path, cache_folder: Path, *options: str, processes: int, launcher: list[str] | None = None
) -> "subprocess.Popen[str]":
    if launcher is None:
        launcher = [sys.executable]
        if processes > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*launcher, "-m", "spectral_ft.run", f"hydra.run.dir={folder}", *QUICK, *options]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "SPECTRAL_FT_CACHE": str(cache_folder),
    }
    return subprocess.Popen(command, env=environment, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)


def ended(process: "subprocess.Popen[str]") -> str:
    _, told = process.communicate(timeout=250)
    assert process.returncode == 0, told[-3000:]
    return told


def losses(run: Path) -> list[float]:
    rows = map(json.loads, (run / "train.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


def examples_of(steps: int, options: tuple[str, ...]) -> int:
    """How many examples so many steps learn from: 16 each, fewer in the last of an epoch."""
    limit = next((int(each.partition("=")[2]) for each in options[::-1] if each.startswith("dataset.limit")), 100)
    an_epoch = -(-limit // 16)
    return steps // an_epoch * limit + steps % an_epoch * 16


@pytest.fixture(scope="module")
def by_one(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def run(*options: str) -> Path:
        folder = tmp_path_factory.mktemp("one")
        ended(start(folder / "run", folder / "cache", *options, processes=1))
        return folder / "run"

    return run


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "lora" else [pytest.mark.slow]) for name in SETUPS]
)
def test_two_processes_train_what_one_does(name: str, by_one: Any, tmp_path: Path) -> None:
    options = SETUPS[name]
    one = by_one(*(each for each in options if "sharded" not in each))
    two = tmp_path / "run"
    told = ended(start(two, tmp_path / "cache", *options, processes=2))
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert len(losses(two)) == 10
    mine, others = (json.loads((run / "train.json").read_text()) for run in (two, one))
    for loss in ("validation_loss", "general_loss"):
        assert mine[loss]["tokens"] == others[loss]["tokens"]
        assert mine[loss]["before"] == pytest.approx(others[loss]["before"], abs=1e-5)
        assert mine[loss]["after"] == pytest.approx(others[loss]["after"], abs=1e-3)
    assert mine["trainable_parameters"] == others["trainable_parameters"]
    assert 0 <= mine["tokens"] - others["tokens"] <= 2 * 4  # what fills the last batch is read too
    examples = [round(told_of["samples_per_second"] * told_of["seconds"]) for told_of in (mine, others)]
    assert examples == pytest.approx([examples_of(10, options)] * 2, abs=1)
    # Everything but the training was done, and told, once.
    for once in ("allocated", "trained 10 steps", "scored wordmath (base)", "scored wordmath (tuned)"):
        assert told.count(once) == 1
    plans = [json.loads((run / "plan.json").read_text()) for run in (two, one)]
    assert plans[0] == plans[1]
    if "sgm" in name:
        assert any(allocation["group"] for allocation in plans[0]["allocations"])
    for key, tensor in load_file(one / "adapter" / "adapter_model.safetensors").items():
        found = load_file(two / "adapter" / "adapter_model.safetensors")[key]
        assert (found - tensor).abs().max() < 1e-4, key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "sharded"])
def test_accelerate_launches_with_the_files_that_are_shipped(name: str, by_one: Any, tmp_path: Path) -> None:
    """The command of each file's first line, which the README has too."""
    file = REPOSITORY / "launch" / f"{name}.yaml"
    said, found = file.read_text().splitlines()[0], tmp_path / "run"
    assert said.startswith(f"# accelerate launch --config_file launch/{name}.yaml -m spectral_ft.run ...")
    given = tuple(said.partition(" ... ")[2].split())
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
    ended(start(found, tmp_path / "cache", *given, processes=2, launcher=launcher))
    assert losses(found) == pytest.approx(losses(by_one("quantization=none")), abs=1e-4)
    assert f"--config_file launch/{name}.yaml" in (REPOSITORY / "launch" / "README.md").read_text()


@pytest.mark.parametrize("variable", WRAPPERS)
def test_accelerate_wraps_nothing_around_the_model(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "true")
    sentence = f"accelerate was told to put {WRAPPERS[variable]} around the model, which the run divides itself"
    with pytest.raises(ConfigError, match=sentence):
        check_composition(built())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("batching", ["random", "length"])
def test_two_processes_stop_together_and_go_on(batching: str, by_one: Any, tmp_path: Path) -> None:
    """In the second of three epochs of ten steps; what is left of them is longer than a signal takes."""
    options = (
        *("dataset.limit=160", "training.max_steps=30", "training.save_steps=100"),
        *(f"training.batching={batching}", "method.dropout=0.1"),
    )
    one, run = by_one(*options), tmp_path / "run"
    process = start(run, tmp_path / "cache", *options, processes=2)
    deadline = time.monotonic() + 200
    while len(losses(run) if (run / "train.jsonl").exists() else []) < 11:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=100)
    assert process.returncode != 0 and not (run / "train.json").exists(), "it had ended before it was cut"
    (written,) = run.glob("checkpoints/*/complete.json")
    assert 11 <= int(written.parent.name.removeprefix("checkpoint-")) < 30
    assert "the same command goes on from there" in told
    again = ended(start(run, tmp_path / "cache", *options, processes=2))
    assert f"resuming the training at {written.parent.name}" in again
    whole = tmp_path / "whole"
    ended(start(whole, tmp_path / "cache", *options, processes=2))
    assert len(losses(whole)) == 30 and losses(run) == losses(whole)
    assert losses(whole) == pytest.approx(losses(one), rel=0.2)  # dropout draws otherwise in each process


def test_a_fault_of_the_first_process_ends_all(tmp_path: Path) -> None:
    process = start(tmp_path / "run", tmp_path / "cache", "rank_policy.rank=5000", processes=2)
    _, told = process.communicate(timeout=200)
    assert process.returncode == 1
    assert told.count("error: ") == 1 and "rank" in told.split("error: ")[1].splitlines()[0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("training.batch_size=6", "training.micro_batch_size=6"), "batch_size=6 cannot be divided among 2"),
        (("method=alors", "method.rounds=2"), "method.rounds=2 does not go with 2 processes"),
        (
            ("training.sharded=true", "quantization=nf4"),
            "quantization=nf4-double does not go with training.sharded=true",
        ),
        (("training.sharded=true", "method=spectrum"), "method=spectrum does not go with training.sharded=true"),
    ],
)
def test_what_two_processes_cannot_do_is_a_sentence(
    options: tuple[str, ...],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    from spectral_ft import run
    from tests.conftest import call_entry

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("spectral_ft.pipeline.meet", lambda: None)
    assert call_entry(run.main, f"hydra.run.dir={tmp_path / 'run'}", *options) == 1
    assert sentence in capfd.readouterr().err


def test_one_process_cannot_divide_a_base(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from spectral_ft import run
    from tests.conftest import call_entry

    assert call_entry(run.main, f"hydra.run.dir={tmp_path / 'run'}", "training.sharded=true") == 1
    assert "training.sharded=true divides the base among processes, and this is the only one" in capfd.readouterr().err
