"""Oracle: what was added is there once, and what is cached is not computed again."""

import json
from pathlib import Path

import pytest

from spectral_ft.errors import RunError
from spectral_ft.evaluation.prepare import PreparedTask
from spectral_ft.evaluation.records import BaseScoreCache, ScoreFile, TaskScores
from tests.oracles import score

TASK = PreparedTask(name="gsm8k", protocol="paper", file=Path("gsm8k.yaml"), fingerprint="f")


def finished(task, stage, *, value=0.5, text="text"):
    return TaskScores((score(task, value, stage=stage),), [{"id": 0, "stage": stage, "text": text}])


def samples(folder, task):
    return [json.loads(line) for line in (folder / "samples" / f"{task}.jsonl").read_text().split("\n") if line]


def test_nothing_is_finished_at_first(tmp_path):
    assert ScoreFile(tmp_path).scores() == ()
    assert not ScoreFile(tmp_path).holds("base", "a")


def test_scores_and_samples_grow_by_a_task_at_a_time(tmp_path):
    for stage in ("base", "tuned"):
        for task in ("b", "a"):
            ScoreFile(tmp_path).add(stage, finished(task, stage))
    found = ScoreFile(tmp_path).scores()
    assert [(one.stage, one.task) for one in found] == [("base", "b"), ("base", "a"), ("tuned", "b"), ("tuned", "a")]
    assert [row["stage"] for row in samples(tmp_path, "a")] == ["base", "tuned"]


def test_a_task_is_finished_for_one_stage_only(tmp_path):
    ScoreFile(tmp_path).add("base", finished("a", "base"))
    assert ScoreFile(tmp_path).holds("base", "a")
    assert not ScoreFile(tmp_path).holds("tuned", "a")
    assert not ScoreFile(tmp_path).holds("base", "b")


def test_samples_of_a_stage_that_was_cut_off_are_replaced(tmp_path):
    ScoreFile(tmp_path).add("base", finished("a", "base"))
    before = (tmp_path / "scores.json").read_text()
    ScoreFile(tmp_path).add("tuned", finished("a", "tuned", text="lost"))
    (tmp_path / "scores.json").write_text(before)
    ScoreFile(tmp_path).add("tuned", finished("a", "tuned", text="kept"))
    assert [(row["stage"], row["text"]) for row in samples(tmp_path, "a")] == [("base", "text"), ("tuned", "kept")]


def test_what_is_added_again_takes_the_place_of_what_was_there(tmp_path):
    for stage, task in (("base", "a"), ("base", "b"), ("tuned", "a")):
        ScoreFile(tmp_path).add(stage, finished(task, stage))
    ScoreFile(tmp_path).add("base", finished("a", "base", value=0.75, text="again"))
    found = [(one.stage, one.task, one.value) for one in ScoreFile(tmp_path).scores()]
    assert sorted(found) == [("base", "a", 0.75), ("base", "b", 0.5), ("tuned", "a", 0.5)]
    assert [(row["stage"], row["text"]) for row in samples(tmp_path, "a")] == [("tuned", "text"), ("base", "again")]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_a_response_may_hold_any_line_break(tmp_path, separator):
    ScoreFile(tmp_path).add("base", finished("a", "base", text=f"one{separator}two"))
    ScoreFile(tmp_path).add("tuned", finished("a", "tuned"))
    assert [row["text"] for row in samples(tmp_path, "a")] == [f"one{separator}two", "text"]


def test_damaged_scores_are_named(tmp_path):
    (tmp_path / "scores.json").write_text('[{"task": ')
    with pytest.raises(RunError, match=r"scores\.json is damaged"):
        ScoreFile(tmp_path).scores()


class Scorer:
    """Counts how often it is asked; its score is that count."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return finished("gsm8k", "base", value=float(self.calls))


def fetch(folder, scorer, *, model="m", precision="float32", task=TASK, asked="5", version="1"):
    cache = BaseScoreCache(folder, model=model, precision=precision)
    return cache.fetch(task, asked=asked, version=version, score=scorer)


def test_a_base_score_is_computed_once(tmp_path):
    scorer = Scorer()
    assert fetch(tmp_path, scorer) == fetch(tmp_path, scorer) == finished("gsm8k", "base", value=1.0)
    assert scorer.calls == 1


@pytest.mark.parametrize(
    "other",
    [
        {"model": "n"},
        {"precision": "nf4"},
        {"asked": "None"},
        {"version": "2"},
        {"task": PreparedTask(name="gsm8k", protocol="paper", file=Path("gsm8k.yaml"), fingerprint="g")},
    ],
    ids=lambda other: next(iter(other)),
)
def test_anything_else_is_computed_anew(tmp_path, other):
    scorer = Scorer()
    fetch(tmp_path, scorer)
    fetch(tmp_path, scorer, **other)
    assert scorer.calls == 2


def test_without_a_cache_every_call_computes():
    scorer = Scorer()
    fetch(None, scorer)
    fetch(None, scorer)
    assert scorer.calls == 2


def test_a_damaged_entry_is_computed_anew_with_a_warning(tmp_path, caplog):
    scorer = Scorer()
    fetch(tmp_path, scorer)
    (path,) = tmp_path.glob("*.json")
    path.write_text(path.read_text()[:-9])
    assert fetch(tmp_path, scorer).scores[0].value == 2
    assert "cached base score of gsm8k is damaged" in caplog.text
    assert fetch(tmp_path, scorer).scores[0].value == 2


def test_a_failed_computation_leaves_no_entry(tmp_path):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path, fail)
    assert not list(tmp_path.glob("*.json"))
