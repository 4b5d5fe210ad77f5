"""Runs below folders; oracle: folders that were made as the commands make them, one of each state."""

import json
import os
from pathlib import Path

import pytest

from spectral_ft.errors import RunError
from spectral_ft.reporting.page import write_page
from spectral_ft.reporting.progress import jobs
from spectral_ft.reporting.records import missing_arms, planned_jobs, run_folders
from spectral_ft.reporting.run_files import last_change
from spectral_ft.run_folder import claimed, is_held, mark_started
from spectral_ft.storage import write_json
from tests.conftest import edit_json
from tests.reporting.runs import write_record, write_sweep

LORA = {"method.name": "lora", "rank_policy._target_": "spectral_ft.allocation.uniform.Uniform", "rank_policy.rank": 8}


def by_name(folder):
    return {run.folder.name: run for run in run_folders([folder])}


def test_each_state_is_told(tmp_path):
    write_record(tmp_path / "done", run_id="done", options=LORA)
    mark_started(tmp_path / "cut", "cut", {**json.loads((tmp_path / "done" / "run.json").read_text())["config"]})
    write_json(
        tmp_path / "failed" / "failure.json", {"run_id": "failed", "error": "no memory left.\nmore", "type": "E"}
    )
    write_record(tmp_path / "torn", run_id="torn", options=LORA)
    (tmp_path / "torn" / "result.json").write_text('{"run_id": "torn"')
    write_record(tmp_path / "old", run_id="old", options=LORA)
    edit_json(tmp_path / "old" / "result.json", format=0, scores="in another form")
    (tmp_path / "empty").mkdir()
    with claimed(tmp_path / "running", "running"):
        mark_started(tmp_path / "running", "running", {})
        found = by_name(tmp_path)
    assert {name: run.status for name, run in found.items()} == {
        "cut": "cut",
        "done": "finished",
        "failed": "failed",
        "old": "damaged",
        "running": "running",
        "torn": "damaged",
    }
    assert (
        found["done"].result.run_id == "done" and found["done"].reason is None and found["done"].arm == "lora/uniform"
    )
    assert found["failed"].reason == "no memory left." and found["failed"].run_id == "failed"
    assert "damaged or was edited" in found["torn"].reason and found["torn"].run_id == "torn"
    assert "record format 0, this version reads 2" in found["old"].reason and found["old"].run_id == "old"
    assert found["cut"].arm == "lora/uniform" and "goes on where it stopped" in found["cut"].reason
    assert by_name(tmp_path)["running"].status == "cut"


def test_a_lock_is_looked_at_without_a_trace(tmp_path):
    assert not is_held(tmp_path) and list(tmp_path.iterdir()) == []
    with claimed(tmp_path, "me"):
        before = (tmp_path / ".lock").stat().st_mtime_ns
        assert is_held(tmp_path) and (tmp_path / ".lock").stat().st_mtime_ns == before
        mark_started(tmp_path, "me", {})
    assert not is_held(tmp_path)


def test_the_folders_of_a_run_are_not_searched_and_no_run_is_there_twice(tmp_path):
    write_record(tmp_path / "sweep" / "a", run_id="a")
    write_record(tmp_path / "sweep" / "a" / "export" / "b", run_id="b")
    (tmp_path / "link").symlink_to(tmp_path / "sweep" / "a")
    (tmp_path / "sweep" / "back").symlink_to(tmp_path)
    found = run_folders([tmp_path, tmp_path / "sweep", tmp_path / "sweep" / "a"])
    assert [run.run_id for run in found] == ["a"]


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    for ask in (run_folders, planned_jobs):
        with pytest.raises(RunError, match="nowhere does not exist or is no folder"):
            ask([tmp_path / "nowhere"])
    assert run_folders([tmp_path]) == [] and planned_jobs([tmp_path]) is None


@pytest.fixture
def barred(monkeypatch):
    """Makes a path one that the user may not look at; permissions stop nobody who is root."""

    def bar(path):
        def refusing(known):
            def call(of, *given, **named):
                if not isinstance(of, int) and (Path(of) == path or path in Path(of).parents):
                    raise PermissionError(13, "Permission denied", str(of))
                return known(of, *given, **named)

            return call

        for owner, name in ((Path, "stat"), (Path, "open"), (Path, "is_file"), (os, "open")):
            monkeypatch.setattr(owner, name, refusing(getattr(owner, name)))

    return bar


@pytest.mark.parametrize("file", ["result.json", "run.json", "failure.json", ""])
def test_a_run_that_cannot_be_read_is_damaged_and_hides_no_other(tmp_path, barred, file):
    write_record(tmp_path / "a", run_id="a")
    write_record(tmp_path / "b", run_id="b")
    if file == "failure.json":
        (tmp_path / "b" / "result.json").unlink()
        write_json(tmp_path / "b" / file, {"run_id": "b", "error": "e"})
    barred(tmp_path / "b" / file)
    found = by_name(tmp_path)
    assert {name: run.status for name, run in found.items()} == {"a": "finished", "b": "damaged"}
    assert found["b"].reason == f"{tmp_path / 'b'} cannot be read: Permission denied."
    assert (found["b"].updated == 0) == (file == "")
    jobs(run_folders([tmp_path]), None)
    write_page(run_folders([tmp_path]), None, tmp_path / "out" / "page.html")


def test_a_lock_that_nobody_may_look_at_counts_as_free(tmp_path, barred, monkeypatch):
    mark_started(tmp_path / "a", "a", {})
    with claimed(tmp_path / "a", "a"):
        assert is_held(tmp_path / "a")
        with monkeypatch.context() as patch:
            patch.setattr("fcntl.flock", lambda *_: (_ for _ in ()).throw(OSError(37, "No locks available")))
            assert not is_held(tmp_path / "a")
    barred(tmp_path / "a" / ".lock")
    assert not is_held(tmp_path / "a") and by_name(tmp_path)["a"].status == "cut"


def test_a_file_that_vanishes_while_it_is_looked_at_is_no_fault(tmp_path, monkeypatch):
    write_record(tmp_path / "a", run_id="a")
    newest = max(path.stat().st_mtime for path in (tmp_path / "a").iterdir() if path.is_file())
    (tmp_path / "a" / "gone").symlink_to(tmp_path / "nowhere")
    assert last_change(tmp_path / "a") == newest
    listed = os.scandir

    class Vanishing:
        """What a folder listed, of which every entry is gone."""

        def __init__(self, folder):
            self.entries = list(listed(folder))

        def __enter__(self):
            for entry in self.entries:
                Path(entry.path).unlink() if entry.is_file() else None
            return self.entries

        def __exit__(self, *_):
            """Nothing."""

    monkeypatch.setattr("os.scandir", Vanishing)
    assert last_change(tmp_path / "a") == (tmp_path / "a").stat().st_mtime


# ---- what a row is called


def test_equal_settings_have_one_name_whatever_the_seed_and_others_are_told_apart(tmp_path):
    for name, rank, seed in (("a", 8, 0), ("b", 8, 1), ("c", 32, 0)):
        write_record(tmp_path / name, run_id=name, seed=seed, options={**LORA, "rank_policy.rank": rank})
    assert [run.arm for run in run_folders([tmp_path])] == [
        "lora/uniform (rank_policy.rank=8)",
        "lora/uniform (rank_policy.rank=8)",
        "lora/uniform (rank_policy.rank=32)",
    ]
    assert [run.arm for run in run_folders([tmp_path / "a", tmp_path / "b"])] == ["lora/uniform"] * 2
    assert [run.seed for run in run_folders([tmp_path])] == [0, 1, 0]


def test_as_few_options_as_it_takes_tell_names_apart_and_what_changes_no_result_does_not(tmp_path):
    tiny = {**LORA, "model.name": "tiny", "model.path": "a", "model.kind": "x", "tracking.mode": "auto"}
    large = {**LORA, "model.name": "large", "model.path": "b", "model.kind": "y", "tracking.mode": "offline"}
    write_record(tmp_path / "a", run_id="a", options=tiny)
    write_record(tmp_path / "b", run_id="b", options=large)
    assert [run.arm for run in run_folders([tmp_path])] == [
        "lora/uniform (model.name=tiny)",
        "lora/uniform (model.name=large)",
    ]
    write_record(tmp_path / "b", run_id="b", options={**tiny, "tracking.mode": "offline"})
    assert {run.arm for run in run_folders([tmp_path])} == {"lora/uniform"}


def test_a_sweep_tells_arms_and_what_is_missing(tmp_path):
    jobs = [("a", "arithmetic/lora", 0), ("b", "arithmetic/lora", 1), ("c", "arithmetic/pref_t", 0)]
    write_sweep(tmp_path, jobs)
    write_record(tmp_path / "a", run_id="a", options=LORA)
    runs = run_folders([tmp_path])
    assert [run.arm for run in runs] == ["arithmetic/lora"]
    missing = missing_arms(planned_jobs([tmp_path]), runs)
    assert [(arm, job.run_id, job.seed) for arm, job in missing] == [
        ("arithmetic/lora", "b", 1),
        ("arithmetic/pref_t", "c", 0),
    ]


RATES = [(f"{rate}{seed}", "x", seed, f"training.learning_rate={rate}") for rate in ("0.1", "0.2") for seed in (0, 1)]
"""One arm with two settings of two seeds each."""
EACH = {rate: f"x (training.learning_rate={rate})" for rate in ("0.1", "0.2")}


def rated(folder, rate, seed):
    options = {**LORA, "training.learning_rate": float(rate)}
    return write_record(folder / f"{rate}{seed}", run_id=f"{rate}{seed}", seed=seed, options=options)


def rows(folder):
    runs = run_folders([folder])
    missing = missing_arms(planned_jobs([folder]), runs)
    return {run.run_id: run.arm for run in runs} | {job.run_id: arm for arm, job in missing}


def test_the_settings_of_one_arm_are_told_apart_before_any_has_begun_and_in_the_same_words_after(tmp_path):
    expected = {name: EACH[name[:3]] for name, *_ in RATES}
    write_sweep(tmp_path, RATES, overrides=["tracking.mode=disabled"])
    assert rows(tmp_path) == expected
    write_json(tmp_path / "0.20" / "failure.json", {"run_id": "0.20", "error": "e", "overrides": ["arm=x", "seed=0"]})
    assert rows(tmp_path) == expected
    rated(tmp_path, "0.1", 0)  # whose configuration alone tells it from nothing
    assert rows(tmp_path) == expected
    rated(tmp_path, "0.2", 1)
    assert rows(tmp_path) == expected


def test_what_changes_no_result_tells_no_settings_apart(tmp_path):
    own = ["tracking.mode=disabled", "figures=false"]
    write_sweep(tmp_path, [("a", "x", 0, own[0]), ("b", "x", 1, own[1]), ("c", "x", 2)])
    assert set(rows(tmp_path).values()) == {"x"}


def test_a_run_whose_files_do_not_say_its_identity_is_known_by_its_folder(tmp_path):
    write_sweep(tmp_path, RATES)
    with claimed(tmp_path / "0.10", "0.10"):
        (tmp_path / "0.21").mkdir()
        (tmp_path / "0.21" / "run.json").write_text('{"run_id": "0.2')
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "run.json").write_text("{")
        found = by_name(tmp_path)
        missing = missing_arms(planned_jobs([tmp_path]), list(found.values()))
    told = {name: (run.run_id, run.status, run.arm, run.seed) for name, run in found.items()}
    assert told == {
        "0.10": ("0.10", "running", EACH["0.1"], 0),
        "0.21": ("0.21", "damaged", EACH["0.2"], 1),
        "other": (None, "damaged", "other", None),
    }
    assert [job.run_id for _, job in missing] == ["0.11", "0.20"]


def test_jobs_without_an_arm_are_in_the_row_of_their_other_seeds(tmp_path):
    write_sweep(tmp_path, [(name, None, seed) for seed, name in enumerate("abc")], overrides=["method=lora"])
    write_record(tmp_path / "a", run_id="a", options=LORA)
    write_json(tmp_path / "b" / "failure.json", {"run_id": "b", "error": "e", "overrides": ["method=lora", "seed=1"]})
    runs = run_folders([tmp_path])
    assert [(run.arm, run.seed) for run in runs] == [("lora/uniform", 0), ("lora/uniform", 1)]
    assert [arm for arm, _ in missing_arms(planned_jobs([tmp_path]), runs)] == ["lora/uniform"]


def test_a_failed_job_alone_is_called_by_its_overrides(tmp_path):
    failure = {"run_id": "b", "error": "", "type": "ValueError", "overrides": ["+arm=tiny/x", "seed=3"]}
    write_json(tmp_path / "b" / "failure.json", failure)
    (run,) = run_folders([tmp_path])
    assert (run.arm, run.seed, run.reason) == ("tiny/x", 3, "ValueError")


def test_a_damaged_plan_of_a_sweep_is_refused(tmp_path):
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(RunError, match=r"sweep\.json is damaged"):
        run_folders([tmp_path])
