"""Sweeps of which some jobs fail; oracles: the grid by hand, and a pipeline that is told which job to fail in."""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from spectral_ft.compose import build_experiment, composed
from spectral_ft.errors import CheckpointError, Interrupted, RunError
from spectral_ft.experiment import Experiment
from spectral_ft.run_folder import claimed, finished_run, mark_started, note_failure
from spectral_ft.storage import read_json, write_json
from spectral_ft.types import RunResult
from tests.conftest import Called, edit_json

MANY = "hydra.mode=MULTIRUN"
SWEEP = (MANY, "method=none,lora", "seed=0,1", "training.max_steps=2", "hydra.sweep.dir=sweep")
JOBS = list(itertools.product(("none", "lora"), (0, 1)))
Fake = Callable[..., list[str]]


@cache
def identity(method: str, seed: int) -> str:
    return build_experiment(
        composed([f"method={method}", f"seed={seed}", "training.max_steps=2", "tracking.mode=disabled"])
    ).run_id


@pytest.fixture
def fake(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A pipeline that only leaves a record, and fails as it is told; returns the identities of what it ran."""
    record = read_json(finished / "result.json", RunResult)

    def install(faults: dict[tuple[str, int], BaseException], watch: Callable[[], None] = lambda: None) -> list[str]:
        ran: list[str] = []

        def run(experiment: Experiment, folder: Path) -> RunResult:
            watch()
            with claimed(folder, experiment.run_id):
                ran.append(experiment.run_id)
                mark_started(folder, experiment.run_id, experiment.config)
                if fault := faults.get((experiment.method.name, experiment.seed)):
                    raise fault
                result = replace(record, run_id=experiment.run_id, seed=experiment.seed)
                write_json(folder / "result.json", result)
                return result

        monkeypatch.setattr("spectral_ft.pipeline.run", run)
        return ran

    return install


def test_the_jobs_are_written_down_before_the_first_begins(command: Callable[..., Called], fake: Fake) -> None:
    seen: list[Any] = []
    fake({}, watch=lambda: seen.append(json.loads(Path("sweep/sweep.json").read_text())))
    assert command(*SWEEP).code == 0
    assert len(seen) == 4
    assert seen[0]["experiment"] is None
    assert [(job["run_id"], job["seed"], job["arm"]) for job in seen[0]["jobs"]] == [
        (identity(method, seed), seed, None) for method, seed in JOBS
    ]
    assert all(
        {f"method={m}", f"seed={s}"} <= set(job["overrides"]) for job, (m, s) in zip(seen[0]["jobs"], JOBS, strict=True)
    )


def test_an_experiment_and_its_arms_are_named(command: Callable[..., Called], fake: Fake) -> None:
    fake({})
    assert command("experiment=first_comparison", "hydra.sweep.dir=sweep", "seed=3").code == 0
    said = json.loads(Path("sweep/sweep.json").read_text())
    assert said["experiment"] == "first_comparison"
    assert [(job["arm"], job["seed"]) for job in said["jobs"]] == [("tiny/uniform", 3), ("tiny/spectral", 3)]


def test_a_failing_job_stops_no_other_and_is_told_at_the_end(command: Callable[..., Called], fake: Fake) -> None:
    broken = CheckpointError("the weights are not whole: fetch them again.")
    ran = fake({("none", 1): broken, ("lora", 0): ZeroDivisionError("by zero")})
    called = command(*SWEEP)
    assert called.code == 1
    assert ran == [identity(method, seed) for method, seed in JOBS]
    assert "error: 2 of 4 jobs failed; the same command repeats these alone." in called.err
    last = called.err.strip().splitlines()[-2:]
    assert identity("none", 1) in last[0] and "method=none" in last[0] and last[0].endswith(str(broken))
    assert identity("lora", 0) in last[1] and last[1].endswith("ZeroDivisionError: by zero")
    assert "Traceback" in called.err  # of the fault that nobody foresaw
    said = json.loads(Path("sweep", identity("none", 1), "failure.json").read_text())
    assert {key: said[key] for key in ("run_id", "error", "type")} == {
        "run_id": identity("none", 1),
        "error": str(broken),
        "type": "CheckpointError",
    }
    assert {"method=none", "seed=1"} <= set(said["overrides"]) and said["time"] > 1.7e9


def test_calling_again_runs_what_failed_and_only_that(command: Callable[..., Called], fake: Fake) -> None:
    fake({("none", 1): CheckpointError("no."), ("lora", 0): CheckpointError("no.")})
    assert command(*SWEEP).code == 1
    records = {path: path.stat().st_mtime_ns for path in Path("sweep").rglob("result.json")}
    ran = fake({("lora", 0): CheckpointError("still no.")})
    called = command(*SWEEP)
    assert called.code == 1 and "sweep of 4 jobs in sweep, of which 2 are done" in called.err
    assert "1 of 4 jobs failed" in called.err and called.err.strip().endswith("still no.")
    assert ran == [identity("none", 1), identity("lora", 0)]
    assert fake({}) == [] and command(*SWEEP).code == 0
    assert {path: path.stat().st_mtime_ns for path in records} == records


def test_a_combination_that_cannot_be_is_one_failed_job(command: Callable[..., Called], fake: Fake) -> None:
    ran = fake({})
    called = command(MANY, "method=prefix,lora", "budget=match", "hydra.sweep.dir=sweep")
    assert called.code == 1 and len(ran) == 1
    assert "1 of 2 jobs failed" in called.err and "method=prefix has no ranks" in called.err.splitlines()[-1]


def test_a_choice_that_does_not_exist_is_told_once_before_any_job(command: Callable[..., Called], fake: Fake) -> None:
    ran = fake({})
    called = command(MANY, "method=lora,lorra", "hydra.sweep.dir=sweep")
    assert (called.code, ran) == (1, [])
    assert "method=lorra does not exist. Did you mean lora" in called.err and "Callback" not in called.err
    assert not Path("sweep/sweep.json").exists()


def test_sweeps_that_share_a_folder_keep_one_list_and_each_tells_of_its_own(
    command: Callable[..., Called], fake: Fake
) -> None:
    fake({("none", 0): CheckpointError("no.")})
    assert command(MANY, "method=none", "seed=0,1", *SWEEP[3:]).code == 1
    called = command(MANY, "method=lora", "seed=0,1", *SWEEP[3:])
    assert called.code == 0 and "sweep of 2 jobs in sweep, of which 0 are done" in called.err
    said = json.loads(Path("sweep/sweep.json").read_text())
    assert [job["run_id"] for job in said["jobs"]] == [identity(method, seed) for method, seed in JOBS]
    told = ["tracking.mode=disabled", MANY]
    assert [words[:4] for words in said["commands"]] == [[*told, f"method={m}", "seed=0,1"] for m in ("none", "lora")]
    assert command(*SWEEP).code == 1  # the job that failed is one of these
    again = json.loads(Path("sweep/sweep.json").read_text())
    assert [job["run_id"] for job in again["jobs"]] == [job["run_id"] for job in said["jobs"]]
    assert len(again["commands"]) == 3


def test_a_sweep_is_told_of_its_own_jobs_whatever_others_write_meanwhile(
    command: Callable[..., Called], fake: Fake
) -> None:
    path = Path("sweep/sweep.json")

    def another() -> None:
        known = json.loads(path.read_text())
        other = {"run_id": "other", "overrides": ["method=dora"], "arm": None, "seed": 0}
        write_json(path, {**known, "jobs": [*known["jobs"], other]}, home=path.parent)

    fake({}, watch=another)
    assert command(*SWEEP).code == 0
    assert "other" in {job["run_id"] for job in json.loads(path.read_text())["jobs"]}
    Path("sweep", identity("none", 1), "result.json").unlink()
    fake({("none", 1): CheckpointError("no.")}, watch=path.unlink)
    called = command(*SWEEP)
    assert called.code == 1 and "error: 1 of 4 jobs failed" in called.err


def test_a_search_tells_of_the_trials_that_it_began(command: Callable[..., Called], fake: Fake) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="the extra `sweeps` is not installed")
    fake({("none", 0): CheckpointError("of another.")})
    assert command(MANY, "method=none", "hydra.sweep.dir=sweep").code == 1
    began: list[int] = []

    def second() -> None:
        began.append(len(began))
        if len(began) == 2:
            raise CheckpointError("no.")

    search = ("experiment=hpo", "scale=tiny", "hydra.sweeper.n_trials=3", "hydra.sweep.dir=sweep")
    for call, others in enumerate((2, 0)):  # the second call begins the one that failed, which is listed already
        began[:] = [0] * call
        ran = fake({}, watch=second)
        called = command(*search)
        assert called.code == 1 and len(ran) == others
        assert "error: 1 of 3 jobs failed" in called.err and "of another." not in called.err
    fake({})
    assert command(*search).code == 0
    assert len(json.loads(Path("sweep/sweep.json").read_text())["jobs"]) == 4


def test_a_small_version_has_a_folder_of_its_own(command: Callable[..., Called], fake: Fake) -> None:
    fake({})
    for scale in ("full", "tiny"):
        assert command("experiment=first_comparison", "arm=tiny/uniform", "seed=3", f"scale={scale}").code == 0
    assert command(MANY, "method=none", "scale=full,tiny").code == 0
    found = {path.parent.name: len(json.loads(path.read_text())["jobs"]) for path in Path("runs").glob("*/sweep.json")}
    assert found == {"first_comparison": 1, "first_comparison-tiny": 1, "sweep": 2}
    assert len(list(Path("runs/sweep").glob("*/result.json"))) == 2


def test_ctrl_c_ends_the_sweep(command: Callable[..., Called], fake: Fake) -> None:
    ran = fake({("none", 1): Interrupted(2, "the same command goes on")})
    called = command(*SWEEP)
    assert called.code == 130 and len(ran) == 2
    assert not list(Path("sweep").rglob("failure.json"))
    assert "the same command goes on" in called.err


def test_a_single_run_that_fails_marks_nothing(command: Callable[..., Called], fake: Fake) -> None:
    fake({("none", 0): CheckpointError("no.")})
    called = command("method=none", "hydra.run.dir=run")
    assert (called.code, called.err.strip().splitlines()[-1]) == (1, "error: no.")
    assert not Path("run", "failure.json").exists() and not Path("run", "sweep.json").exists()


def test_a_folder_of_another_run_is_not_marked(command: Callable[..., Called], fake: Fake) -> None:
    fake({})
    place = Path("sweep") / identity("none", 1)
    write_json(place / "run.json", {"run_id": "another", "format": 2, "config": {}})
    called = command(*SWEEP)
    assert called.code == 1 and "1 of 4 jobs failed" in called.err
    assert "holds run another" in called.err
    assert not (place / "failure.json").exists()


def test_a_record_that_is_cut_is_made_again(command: Callable[..., Called], fake: Fake) -> None:
    fake({})
    assert command(*SWEEP).code == 0
    record = Path("sweep") / identity("none", 1) / "result.json"
    record.write_text(record.read_text()[:100])
    called = command(*SWEEP)
    assert called.code == 0 and "of which 3 are done" in called.err
    assert json.loads(record.read_text())["status"] == "finished"


def test_sweeps_of_other_entries_leave_no_list_and_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spectral_ft import plan
    from tests.conftest import call_entry

    monkeypatch.chdir(tmp_path)
    given = (MANY, "method=prefix,lora", "budget=match", "figures=false", "hydra.sweep.dir=sweep")
    assert call_entry(plan.main, *given) == 1
    assert not list(Path("sweep").rglob("sweep.json")) and not list(Path("sweep").rglob("failure.json"))


def test_a_done_sweep_never_loads_torch(command: Callable[..., Called], fake: Fake) -> None:
    fake({})
    assert command(*SWEEP).code == 0
    code = "import sys; from spectral_ft import run; run.main(); assert 'torch' not in sys.modules, 'torch was loaded'"
    given = ["tracking.mode=disabled", *SWEEP]
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("is done already") == 4


def test_a_record_of_another_run_is_not_taken_for_this_one(finished: Path, tmp_path: Path) -> None:
    record = read_json(finished / "result.json", RunResult)
    assert finished_run(finished, record.run_id) == record
    with pytest.raises(RunError, match=f"holds run {record.run_id}, this configuration is run another"):
        finished_run(finished, "another")
    assert finished_run(tmp_path, record.run_id) is None


def test_a_failure_is_forgotten_when_the_run_begins_again(command: Callable[..., Called]) -> None:
    options = ("method=none", "benchmark.limit=2", "training.max_steps=2", "general_text=none")
    assert command(MANY, *options, "hydra.sweep.dir=sweep").code == 0
    (folder,) = Path("sweep").glob("*/")
    (folder / "result.json").unlink()
    run = json.loads((folder / "run.json").read_text())["run_id"]
    note_failure(folder, run, sentence="no.", kind="CheckpointError", overrides=[])
    edit_json(folder / "failure.json", error="it was so")
    assert command(MANY, *options, "hydra.sweep.dir=sweep").code == 0
    assert (folder / "result.json").exists() and not (folder / "failure.json").exists()
