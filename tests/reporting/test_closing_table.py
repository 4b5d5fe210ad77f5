"""Oracle: the numbers of a typed record, looked for in the text."""

from pathlib import Path

import pytest

from spectral_ft.reporting.closing_table import closing_table, leading, objective
from spectral_ft.types import RunResult
from tests.oracles import score

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
    assert objective(record(BASE)) is None


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
    assert " - " in line_with("gsm8k", closing_table(record(BASE), Path("run")))


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
