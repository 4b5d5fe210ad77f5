"""Oracle: stored rows whose answers are read by eye, and what the harness said of the same responses."""

import copy

import pytest

from spectral_ft.errors import ConfigError, DataError
from spectral_ft.evaluation.rescoring import rescore
from spectral_ft.types import BenchmarkScore

RESPONSES = ["The answer is 7 of 9", "It is 8.", "16-3", "The answer is $1,200.00 a year", "none"]
GOLD = ["7.0", "8", "3", "#### 1,200", "4"]
RIGHT = {"paper_number": [0, 1, 0, 1, 0], "strict_number": [1, 1, 1, 1, 0]}
READ = {"paper_number": ["9", "8.", "-3", "1200.00", ""], "strict_number": ["7", "8", "3", "1200.00", ""]}


def row(number, response, gold, **changes):
    """A row of `samples/TASK.jsonl` as the harness leaves it."""
    return {
        "stage": "base",
        "id": number,
        "prompt_hash": f"{number:016d}",
        "response": response,
        "log_likelihoods": None,
        "extractor": "none",
        "extracted": response,
        "gold": gold,
        "metrics": {"paper": 0.0},
    } | changes


def samples(**changes):
    return [row(*each) | changes for each in zip(range(5), RESPONSES, GOLD, strict=True)]


def stored(stage="base", **changes):
    known = {
        "task": "gsm8k",
        "metric": "exact_match",
        "value": 0.125,
        "stderr": None,
        "n": 5,
        "fewshot": 3,
        "extractor": "paper",
        "protocol": "paper",
        "stage": stage,
        "harness_version": "0.4.13",
    }
    return BenchmarkScore(**known | changes)


@pytest.mark.parametrize("rules", [["paper_number"], ["strict_number", "paper_number"]])
def test_each_rule_gives_a_score_and_a_row_an_item(rules):
    found = rescore(samples(), rules, stored=[stored(), stored(extractor="strict")])
    assert [score.extractor for score in found.scores] == rules
    for score in found.scores:
        right = RIGHT[score.extractor]
        mean = sum(right) / 5
        assert (score.value, score.n) == (mean, 5)
        assert score.stderr == pytest.approx((mean * (1 - mean) / 4) ** 0.5)
        assert (score.task, score.metric, score.fewshot, score.protocol) == ("gsm8k", "exact_match", 3, "paper")
        assert (score.stage, score.harness_version) == ("base", "0.4.13")
        rows = [one for one in found.samples if one["extractor"] == score.extractor]
        assert [one["extracted"] for one in rows] == READ[score.extractor]
        assert [one["metrics"] for one in rows] == [{"exact_match": float(value)} for value in right]
        assert [(one["id"], one["response"], one["gold"]) for one in rows] == list(
            zip(range(5), RESPONSES, GOLD, strict=True)
        )
    assert set(found.samples[0]) == set(samples()[0])


def test_what_was_rescored_can_be_rescored():
    once = rescore(samples(), ["paper_number", "strict_number"], stored=[stored()])
    again = rescore(once.samples, ["paper_number", "strict_number"], stored=once.scores)
    assert again == once


def test_the_stored_rows_stay_as_they_are():
    before = samples()
    kept = copy.deepcopy(before)
    rescore(before, ["strict_number"], stored=[stored()])
    assert before == kept


def test_base_comes_before_tuned_each_by_its_own_rows():
    tuned = [row(0, "It is 7", "7", stage="tuned"), row(1, "It is 1", "7", stage="tuned")]
    found = rescore(
        [*tuned, *samples()], ["paper_number"], stored=[stored("tuned", fewshot=0), stored(fewshot=5)]
    )  # fmt: skip
    assert [(score.stage, score.value, score.n, score.fewshot) for score in found.scores] == [
        ("base", 2 / 5, 5, 5),
        ("tuned", 1 / 2, 2, 0),
    ]
    assert [one["stage"] for one in found.samples] == ["base"] * 5 + ["tuned"] * 2


def test_an_item_with_a_row_a_filter_counts_once():
    twice = [one | {"extractor": name} for one in samples() for name in ("strict-match", "flexible-extract")]
    found = rescore(twice, ["strict_number"], stored=[stored()])
    assert (found.scores[0].value, found.scores[0].n, len(found.samples)) == (4 / 5, 5, 5)


@pytest.mark.parametrize(
    ("changes", "rules", "message"),
    [
        (
            {"response": None, "log_likelihoods": [-1.0, -2.0]},
            ["paper_number"],
            "samples of gsm8k, item 0: it was scored by log-likelihoods and has no written response",
        ),
        ({"logits": [0.0, 1.0]}, ["paper_number"], "item 0: it was scored by logits and has no written response"),
        (
            {"gold": "B"},
            ["paper_letter", "strict_number"],
            "item 0: the right answer 'B' is no number, so paper_letter",
        ),
        ({"stage": "tuned"}, ["paper_number"], "hold items of the tuned model, but no score of it is stored"),
    ],
)
def test_rows_that_cannot_be_read_again_are_refused(changes, rules, message):
    with pytest.raises(DataError, match=message):
        rescore(samples(**changes), rules, stored=[stored()])


def test_no_rows_and_no_such_rule_are_refused():
    with pytest.raises(DataError, match="there are no stored samples to score again"):
        rescore([], ["paper_number"], stored=[stored()])
    with pytest.raises(ConfigError, match=r"paper_numbers is no rule of extraction.*Did you mean paper_number"):
        rescore(samples(), ["paper_numbers"], stored=[stored()])
