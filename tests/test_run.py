"""The command: the files of its contract, its records, resumption; oracle: an uninterrupted run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spectral_ft import storage
from spectral_ft.types import AllocationPlan, RunResult
from tests.conftest import EMBEDDED, QUICK, call_entry

CONTRACT = {"spectrum.parquet", "plan.json", "adapter", "train.jsonl", "scores.json", "samples", "result.json"}
STAGES = ["spectrum.parquet", "plan.json", "train.json", "scores.json", "drift.parquet", "result.json"]
RUN = (*QUICK, "benchmark.limit=4", "tracking.mode=disabled")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def run_here(folder: Path, *overrides: str) -> int:
    from spectral_ft import run

    return call_entry(run.main, f"hydra.run.dir={folder}", *RUN, *overrides)


def test_a_run_leaves_the_files_of_the_contract(finished: Path) -> None:
    left = {path.name for path in finished.iterdir()}
    assert left >= CONTRACT
    assert "checkpoints" not in left
    assert not [path for path in finished.rglob("*") if ".part" in path.name]


def test_the_record_says_what_was_done(finished: Path) -> None:
    record = storage.read_json(finished / "result.json", RunResult)
    plan = storage.read_json(finished / "plan.json", AllocationPlan)
    assert record.status == "finished"
    assert record.train is not None and record.train["steps"] == 6
    assert record.plan is not None and record.plan["trainable_parameters"] == plan.trainable_parameters
    assert {(score.stage, score.n) for score in record.scores} == {("base", 8), ("tuned", 8)}
    assert record.config["rank_policy"]["column"] == "snr"
    assert record.versions["torch"] == torch.__version__


def test_the_plan_counts_what_the_adapter_holds(finished: Path) -> None:
    plan = json.loads((finished / "plan.json").read_text())
    held = sum(tensor.numel() for tensor in weights(finished).values())
    assert plan["trainable_parameters"] == plan["adapter_parameters"] == held
    base = sum(tensor.numel() for tensor in load_file(EMBEDDED / "model.safetensors").values())
    assert plan["base_parameters"] == base
    assert plan["trainable_percent"] == pytest.approx(100 * held / (base + held))


def test_samples_hold_every_item_of_both_stages(finished: Path) -> None:
    rows = [json.loads(line) for line in (finished / "samples" / "wordmath.jsonl").read_text().splitlines()]
    strict = [row for row in rows if row["extractor"] == "strict-match"]
    assert [(row["stage"], row["id"]) for row in strict] == [(s, i) for s in ("base", "tuned") for i in range(8)]
    assert all(row["response"] and row["gold"].isdigit() and len(row["prompt_hash"]) == 16 for row in strict)


def test_the_log_of_the_training_has_a_row_a_step(finished: Path) -> None:
    rows = [json.loads(line) for line in (finished / "train.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(row["loss"] > 0 for row in rows)


def test_a_second_call_does_nothing(finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    options = (*QUICK, "benchmark.limit=8", "rank_policy=snr_top", "tracking.mode=disabled")
    from spectral_ft import run

    caplog.set_level("INFO", logger="spectral_ft")
    assert call_entry(run.main, f"hydra.run.dir={finished}", *options) == 0
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert after == {path: stamp for path, stamp in before.items()}


def test_a_folder_belongs_to_one_run(finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_here(finished, "seed=5") == 1
    assert "holds run" in capfd.readouterr().err


@pytest.mark.parametrize("missing", STAGES)
def test_a_run_cut_after_any_stage_ends_with_the_same_record(missing: str, tmp_path: Path, finished_copy: Path) -> None:
    before = storage.read_json(finished_copy / "result.json", RunResult)
    adapter = weights(finished_copy)
    for name in STAGES[STAGES.index(missing) :]:
        (finished_copy / name).unlink()
    from spectral_ft import run

    options = (*QUICK, "benchmark.limit=8", "rank_policy=snr_top", "tracking.mode=disabled")
    assert call_entry(run.main, f"hydra.run.dir={finished_copy}", *options) == 0
    after = storage.read_json(finished_copy / "result.json", RunResult)
    assert after.scores == before.scores
    assert after.plan == before.plan
    assert (finished_copy / "drift.parquet").exists()
    assert all(torch.equal(adapter[key], tensor) for key, tensor in weights(finished_copy).items())


@pytest.fixture
def finished_copy(finished: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_a_training_killed_in_its_middle_ends_bit_for_bit_like_one_that_was_not(tmp_path: Path) -> None:
    options = [*RUN, "training.max_steps=40", "method.dropout=0.1"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "spectral_ft.run", f"hydra.run.dir={killed}", *options]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 120
    while not list(killed.glob("checkpoints/*/complete.json")):
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "train.json").exists()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert run_here(killed, *options[len(RUN) :]) == 0
        assert run_here(whole, *options[len(RUN) :]) == 0
    finally:
        torch.set_num_threads(threads)
    assert same_weights(killed, whole)
    steps = [json.loads(line)["step"] for line in (killed / "train.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 41))


def test_a_sweep_shares_one_spectral_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spectral_ft import run
    from spectral_ft.spectral import analysis

    passes: list[str] = []
    decompose = analysis.decompose
    monkeypatch.setattr(analysis, "decompose", lambda *given, **how: passes.append("one") or decompose(*given, **how))
    monkeypatch.setenv("SPECTRAL_FT_CACHE", str(tmp_path / "cache"))
    sweep = ("-m", "rank_policy=uniform,snr_top", "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert call_entry(run.main, *sweep, *RUN, "training.max_steps=1") == 0
    records = sorted((tmp_path / "sweep").glob("*/result.json"))
    assert len(records) == 4
    assert len(passes) == 28 + 2 * 7  # the seven adapted matrices are measured again at the end of each run
