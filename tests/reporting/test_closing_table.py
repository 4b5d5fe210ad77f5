"""Oracle: the numbers of a typed record, looked for in the text."""

from pathlib import Path

import numpy as np
import pytest

from spectral_ft.reporting.closing_table import closing_table, objective
from spectral_ft.reporting.score_table import leading
from spectral_ft.statistics.paired import paired_difference
from spectral_ft.storage import read_json
from spectral_ft.types import RunResult
from tests.oracles import score
from tests.reporting.runs import write_run

BASE = (score("aqua", 0.25), score("aqua", 0.1, metric="acc"), score("gsm8k", 0.0))
TUNED = (score("aqua", 0.75, stage="tuned"), score("aqua", 0.9, stage="tuned"), score("gsm8k", 0.5, stage="tuned"))


def record(scores, *, plan=None, train=None):
    return RunResult(
        run_id="abc",
        format=1,
        status="finished",
        config={},
        plan=plan,
        train=train,
        scores=scores,
        versions={},
        git_commit=None,
        seed=1,
        seconds=61.4,
        machine={},
    )


def line_with(word, text):
    return next(line for line in text.splitlines() if word in line)


def test_the_first_score_of_a_task_and_stage_leads():
    assert {key: found.value for key, found in leading((*BASE, *TUNED)).items()} == {
        ("aqua", "base"): 0.25,
        ("gsm8k", "base"): 0.0,
        ("aqua", "tuned"): 0.75,
        ("gsm8k", "tuned"): 0.5,
    }


def test_the_objective_is_the_mean_over_tasks_after_training():
    assert objective(record((*BASE, *TUNED))) == pytest.approx(0.625)


def test_without_scores_after_training_there_is_no_objective():
    assert objective(record(BASE, plan={"trainable_parameters": 3})) is None
    assert objective(record(BASE, plan={"trainable_parameters": 0})) == pytest.approx(0.125)


def test_shares_are_shown_in_percent_with_their_interval():
    # Wilson's interval of 0 of 10 is 0 to 27.8 percent, of 5 of 10 is 23.7 to 76.3
    line = line_with("gsm8k", closing_table(record((*BASE, *TUNED)), Path("run")))
    assert "exact_match (strict)" in line
    assert "0.0 % [0.0, 27.8]" in line
    assert "50.0 % [23.7, 76.3]" in line


def test_a_metric_that_is_no_share_has_no_interval():
    text = closing_table(record((score("wikitext", 12.3456, metric="perplexity"),)), Path("run"))
    assert "12.346" in line_with("wikitext", text)
    assert "%" not in line_with("wikitext", text)


def test_a_stage_that_was_not_scored_is_a_dash():
    assert " - " in line_with("gsm8k", closing_table(record((*BASE, TUNED[0])), Path("run")))
    assert "fine-tuned" not in closing_table(record(BASE), Path("run"))


def test_a_run_that_scores_nothing_says_so():
    assert "run abc: nothing was scored (benchmark=none)" in closing_table(record(()), Path("run"))


def test_costs_are_shown_where_something_was_trained():
    plan = {"trainable_parameters": 19_800_000, "trainable_percent": 0.294, "adapted_matrices": 112, "matrices": 224}
    train = {"seconds": 40.2, "steps": 30, "tokens_per_second": 1234.5, "peak_memory_bytes": 3 * 2**29}
    train |= {"validation_loss": None, "general_loss": {"before": 0.6931, "after": 1.5882, "tokens": 9}}
    text = closing_table(record(TUNED, plan=plan, train=train), Path("run"))
    assert "0.693 before, 1.588 after" in line_with("loss on general text", text) and "held-out" not in text
    assert "19,800,000 (0.29 % of all)" in line_with("trainable parameters", text)
    assert "112 of 224" in line_with("adapted matrices", text)
    assert "40 for 30 steps, 1,234 tokens/s" in line_with("seconds of training", text)
    assert "1.50 GiB" in line_with("peak memory", text)


def test_a_run_without_training_shows_its_time_and_record_only():
    text = closing_table(record(BASE), Path("run"))
    assert "trainable" not in text
    assert "peak memory" not in text
    assert "61" in line_with("seconds in all", text)
    assert str(Path("run") / "result.json") in line_with("record", text)


# ---- fine-tuned less base


def closed(folder):
    return closing_table(read_json(folder / "result.json", RunResult), folder)


def test_the_change_on_the_same_items_is_shown_with_interval_and_p(tmp_path):
    base, tuned = np.repeat([0.0, 1.0], [80, 20]), np.repeat([1.0, 0.0, 1.0], [12, 68, 20])
    text = closed(write_run(tmp_path, {"aqua": {"base": base, "tuned": tuned}}))
    found = paired_difference(tuned, base)
    line = line_with("aqua", text)
    assert f"+12.0 [{100 * found.low:+.1f}, {100 * found.high:+.1f}]" in line and "< 0.001" in line
    assert "less than one question" not in text


def test_p_is_corrected_by_holm_over_the_table(tmp_path):
    # one side right where the other is not: 8 of 8 (p 2 / 2^8), 6 of 6 (2 / 2^6) and 1 of 1 (1)
    answers = {
        task: {"base": np.zeros(20), "tuned": np.repeat([1.0, 0.0], [right, 20 - right])}
        for task, right in (("aqua", 8), ("gsm8k", 6), ("svamp", 1))
    }
    text = closed(write_run(tmp_path, answers))
    assert "p, Holm" in text
    for task, p in (("aqua", 3 * 2 / 2**8), ("gsm8k", 2 * 2 / 2**6), ("svamp", 1.0)):
        assert f" {p:.3f} " in line_with(task, text)


def test_a_change_below_one_question_is_marked(tmp_path):
    base, tuned = np.array([0.0, 1, 1, 0]), np.array([1.0, 0, 1, 0])
    text = closed(write_run(tmp_path, {"aqua": {"base": base, "tuned": tuned}}))
    assert "]*" in line_with("aqua", text) and "1.000" in line_with("aqua", text) and "less than one question" in text


def test_without_samples_the_change_is_left_out(tmp_path):
    answers = {task: {"base": np.zeros(9), "tuned": np.ones(9)} for task in ("aqua", "gsm8k")}
    run = write_run(tmp_path, answers)
    (run / "samples" / "gsm8k.jsonl").unlink()
    assert "less base" in closed(run) and "0.004" in line_with("aqua", closed(run))
    assert line_with("gsm8k", closed(run)).count(" - ") == 2
    (run / "samples" / "aqua.jsonl").unlink()
    assert "less base" not in closed(run)


def test_samples_of_other_items_do_not_hide_the_scores(tmp_path):
    run = write_run(tmp_path, {"aqua": {"base": np.zeros(9), "tuned": np.ones(9)}}, ids=[0, *range(8)])
    assert "100.0 %" in line_with("aqua", closed(run)) and "more than once" in closed(run)
