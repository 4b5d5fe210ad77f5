"""Records as a frame; oracle: the records it is made of."""

import math

from spectral_ft.reporting.frame import score_frame
from spectral_ft.reporting.records import run_folders
from tests.reporting.runs import LORA, write_record


def test_a_row_a_run_task_and_metric_with_the_options_that_differ(tmp_path):
    answers = {"aqua": {"base": [0, 1], "tuned": [1, 1]}, "gsm8k": {"tuned": [0, 0, 1]}}
    plan, train = {"trainable_percent": 1.5}, {"peak_memory_bytes": 7, "seconds": 9.0}
    for name, rank in (("a", 8), ("b", 32)):
        options = {**LORA, "rank_policy.rank": rank}
        write_record(tmp_path / name, answers, run_id=name, options=options, changes={"plan": plan, "train": train})
    frame = score_frame(run_folders([tmp_path]))
    assert len(frame) == 6 and list(frame["rank_policy.rank"]) == [8] * 3 + [32] * 3
    assert "rank_policy._target_" not in frame and "seed" in frame
    row = frame[(frame["run_id"] == "b") & (frame["task"] == "gsm8k")].iloc[0]
    assert (row["value"], row["n"], row["stage"], row["leading"]) == (1 / 3, 3, "tuned", True)
    assert (row["trainable_percent"], row["peak_memory_bytes"], row["seconds"]) == (1.5, 7, 9.0)
    assert row["arm"] == "lora/uniform (rank_policy.rank=32)" and row["folder"] == str(tmp_path / "b")


def test_a_run_without_scores_has_a_row_and_one_without_a_record_none(tmp_path):
    write_record(tmp_path / "a", run_id="a", changes={"scores": []})
    write_record(tmp_path / "b", run_id="b")
    (tmp_path / "b" / "result.json").unlink()
    frame = score_frame(run_folders([tmp_path]))
    assert list(frame["run_id"]) == ["a"] and frame["task"].isna().all() and math.isnan(frame["seconds"].iloc[0])
    assert score_frame([]).empty
