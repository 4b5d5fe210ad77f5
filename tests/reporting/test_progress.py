"""The progress of a sweep; oracle: folders in every state, and the arithmetic of what is left."""

import json

import pytest

from spectral_ft.reporting.progress import Job, jobs, progress_table, seconds_left
from spectral_ft.reporting.records import planned_jobs, run_folders
from spectral_ft.run_folder import claimed, mark_started
from spectral_ft.storage import write_json
from tests.reporting.runs import LORA, nested, write_record, write_sweep


def job(state, *, arm="a", share=None, seconds=None):
    return Job(arm, 0, "id", state, None, share, seconds, None)


def begin(folder, run_id, *, training, rows):
    mark_started(folder / run_id, run_id, nested({**LORA, **training, "seed": 1}))
    (folder / run_id / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 9')


def test_each_state_its_step_and_its_reason_are_told(tmp_path):
    write_sweep(tmp_path, [("done", "x", 0), ("cut", "x", 1), ("bad", "y", 0), ("none", "y", 1), ("busy", "z", 0)])
    write_record(tmp_path / "done", run_id="done", options={**LORA, "training.max_steps": 40})
    begin(tmp_path, "cut", training={"training.max_steps": 40}, rows=[{"step": 9}, {"step": 10}])
    write_json(tmp_path / "bad" / "failure.json", {"run_id": "bad", "error": "no [memory] left"})
    with claimed(tmp_path / "busy", "busy"):
        rows = [{"step": 6, "epoch": 0.5}]
        begin(tmp_path, "busy", training={"training.max_steps": None, "training.epochs": 2.0}, rows=rows)
        found = jobs(run_folders([tmp_path]), planned_jobs([tmp_path]))
    told = {one.run_id: (one.arm, one.seed, one.state, one.step, one.share) for one in found}
    assert told == {
        "done": ("x", 0, "finished", None, None),
        "cut": ("x", 1, "cut", 10, 0.25),
        "bad": ("y", 0, "failed", None, None),
        "none": ("y", 1, "missing", None, None),
        "busy": ("z", 1, "running", 6, 0.25),
    }
    text = progress_table(found)
    assert "1 finished, 1 running, 1 failed, 1 cut, 1 missing; about" in text and "no [memory] left" in text
    assert "step 10, 25 %" in text and text.count("│ x") == 2


def test_what_is_left_is_that_of_the_arm_times_what_is_not_done():
    done = [job("finished", seconds=100.0), job("finished", seconds=200.0), job("finished", arm="b", seconds=30.0)]
    assert seconds_left(done) == 0
    assert seconds_left([*done, job("missing")]) == 150
    assert seconds_left([*done, job("missing", arm="b")]) == 30
    assert seconds_left([*done, job("failed", arm="c")]) == 110
    assert seconds_left([*done, job("cut", share=0.5), job("damaged", share=0.5)]) == 75 + 150
    running = [job("running", share=0.5), job("running", share=0.5)]
    assert seconds_left([*done, *running]) == 75  # two at a time
    assert seconds_left([job("missing")]) is None


def test_the_end_and_the_beginning_are_told():
    assert "1 finished; nothing is left to do" in progress_table([job("finished", seconds=3.0)])
    assert "1 missing; how long the rest takes is known when a run is finished" in progress_table([job("missing")])


def test_a_cut_run_took_longer_than_the_call_that_finished_it(tmp_path):
    write_record(tmp_path / "a", run_id="a", changes={"seconds": 5.0, "train": {"seconds": 60.0}})
    (found,) = jobs(run_folders([tmp_path]), None)
    assert found.seconds == pytest.approx(60.0)
