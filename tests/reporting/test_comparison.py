"""Folders beside folders; oracle: the statistics of the values that the folders were written from."""

import json

import numpy as np
import pytest

from spectral_ft.api import compare
from spectral_ft.errors import ConfigError, DataError, RunError
from spectral_ft.statistics.hierarchical import hierarchical_bootstrap
from spectral_ft.statistics.paired import paired_difference
from spectral_ft.statistics.seeds import difference_over_seeds, mean_over_seeds
from tests.conftest import edit_json
from tests.reporting.runs import write_run

GENERATOR = np.random.default_rng(0)
ONE, TWO, THREE, FOUR = (GENERATOR.random((4, 60)) < 0.5).astype(float)


def tuned(values, task="aqua"):
    return {task: {"tuned": values}}


def test_two_runs_are_compared_item_by_item_whatever_the_order(tmp_path):
    order = [int(place) for place in GENERATOR.permutation(60)]
    here = write_run(tmp_path / "here", tuned(ONE))
    there = write_run(tmp_path / "there", tuned(TWO[order]), ids=order)
    (row,) = compare(here, str(there)).rows
    expected = paired_difference(ONE, TWO)
    assert (row.difference.difference, row.difference.p) == (expected.difference, expected.p)
    assert (row.difference.low, row.difference.high, row.difference.p_holm) == (expected.low, expected.high, expected.p)
    assert (row.task, row.metric, row.extractor) == ("aqua", "exact_match", "strict")


def test_stages_of_one_run_are_compared(tmp_path):
    run = write_run(tmp_path, {"aqua": {"base": ONE, "tuned": TWO}})
    (row,) = compare(run, run, stages=("tuned", "base")).rows
    assert row.difference.only_first == int(((TWO == 1) & (ONE == 0)).sum())


def test_the_same_seeds_are_paired_whatever_their_order(tmp_path):
    ours = [write_run(tmp_path / f"a{seed}", tuned(values), seed=seed) for seed, values in ((1, ONE), (2, TWO))]
    theirs = [write_run(tmp_path / f"b{seed}", tuned(values), seed=seed) for seed, values in ((2, FOUR), (1, THREE))]
    (row,) = compare(ours, theirs).rows
    expected = difference_over_seeds(np.array([ONE, TWO]), np.array([THREE, FOUR]), same_seeds=True)
    assert (row.difference.p, row.difference.low) == (expected.p, expected.low)
    assert row.first == mean_over_seeds([ONE, TWO]) and row.other == mean_over_seeds([THREE, FOUR])
    edit_json(theirs[0] / "result.json", seed=3)
    apart = difference_over_seeds(np.array([ONE, TWO]), np.array([THREE, FOUR]), same_seeds=False)
    (row,) = compare(ours, theirs).rows
    assert row.difference.p == pytest.approx(apart.p) and apart.p != expected.p


def test_several_seeds_are_compared_by_the_bootstrap_where_asked(tmp_path):
    ours = [write_run(tmp_path / f"a{seed}", tuned(values), seed=seed) for seed, values in ((1, ONE), (2, TWO))]
    theirs = [write_run(tmp_path / f"b{seed}", tuned(values), seed=seed) for seed, values in ((1, THREE), (2, FOUR))]
    comparison = compare(ours, theirs, over_seeds="bootstrap")
    (row,) = comparison.rows
    drawn = hierarchical_bootstrap(np.array([ONE, TWO]), np.array([THREE, FOUR]), same_seeds=True)
    assert (row.difference.low, row.difference.high) == tuple(np.quantile(drawn, [0.025, 0.975]))
    alone = hierarchical_bootstrap(np.array([ONE, TWO]))
    assert (row.first.low, row.first.high) == tuple(np.quantile(alone, [0.025, 0.975]))
    assert "bootstrap over seeds and items: of few seeds it finds too many differences" in str(comparison)
    (default,) = compare(ours, theirs).rows
    assert default.difference.test == "t over seeds and items" and "bootstrap" not in str(compare(ours, theirs))
    assert default.difference.difference == row.difference.difference
    with pytest.raises(ConfigError, match="over_seeds='boot' is no procedure: there is t, bootstrap"):
        compare(ours, theirs, over_seeds="boot")


def test_losses_are_compared_by_permutation(tmp_path):
    losses = GENERATOR.exponential(size=(2, 60))
    runs = [write_run(tmp_path / str(i), tuned(values), metric="loss") for i, values in enumerate(losses)]
    comparison = compare(*runs)
    assert comparison.rows[0].difference.test == "sign permutation"
    assert f"{losses[0].mean():.3f}" in str(comparison) and "%" not in str(comparison).splitlines()[4]


# ---- what is shown


def test_the_frame_has_a_row_a_score_and_p_by_holm(tmp_path):
    here = write_run(tmp_path / "here", tuned(ONE) | tuned(ONE, "gsm8k"))
    there = write_run(tmp_path / "there", tuned(np.zeros(60)) | tuned(1 - ONE, "gsm8k"))
    frame = compare(here, there).frame()
    assert list(frame["task"]) == ["aqua", "gsm8k"]
    first = frame.iloc[0]
    assert first["difference"] == pytest.approx(ONE.mean()) and first["p_holm"] == pytest.approx(2 * first["p"])
    assert first["first_low"] < first["first"] < first["first_high"] and not first["below_one_question"]


def test_the_table_tells_points_counts_and_what_the_interval_is_over(tmp_path):
    values = np.zeros(100)
    values[:4] = 1
    text = str(compare(write_run(tmp_path / "a", tuned(values)), write_run(tmp_path / "b", tuned(np.zeros(100)))))
    line = next(line for line in text.splitlines() if "aqua" in line)
    assert "4.0 %" in line and "+4.0 [" in line and "0.125" in line and "4/0" in line and " 100 " in line
    assert "over items alone" in text and "less than one question" not in text
    same = str(compare(tmp_path / "a", tmp_path / "a"))
    assert "+0.0 [-3.6, +3.6]*" in same and "*: less than one question" in same


def test_what_is_in_one_run_only_is_skipped_and_said(tmp_path):
    here = write_run(tmp_path / "here", tuned(ONE) | tuned(ONE, "gsm8k"))
    there = write_run(tmp_path / "there", tuned(TWO))
    comparison = compare(here, there)
    assert [row.task for row in comparison.rows] == ["aqua"]
    assert comparison.skipped == (f"gsm8k exact_match strict is not among the scores of {there}.",)
    assert "skipped: gsm8k" in str(comparison)


def test_a_score_that_is_no_mean_over_items_is_skipped_and_said(tmp_path):
    runs = [write_run(tmp_path / name, tuned(ONE) | tuned(ONE, "f1")) for name in "ab"]
    for run in runs:
        scores = json.loads((run / "scores.json").read_text())
        scores[1]["value"] = 0.125
        (run / "scores.json").write_text(json.dumps(scores))
    (sentence,) = compare(*runs).skipped
    assert "is no mean over items" in sentence and "0.125" in sentence


# ---- refusals


def test_other_items_are_refused(tmp_path):
    here = write_run(tmp_path / "here", tuned(ONE))
    fewer = write_run(tmp_path / "fewer", tuned(ONE[:57]))
    with pytest.raises(DataError, match=r"3 are in one of them only, the first of which is 57"):
        compare(here, fewer)
    reworded = write_run(tmp_path / "reworded", tuned(ONE), prompt="Q: ")
    with pytest.raises(DataError, match=r"same items of aqua: 60 have another prompt, the first of which is 0"):
        compare(here, reworded)


def test_an_item_that_is_there_twice_is_refused(tmp_path):
    here = write_run(tmp_path / "here", tuned(ONE), ids=[*range(58), 3, 4])
    with pytest.raises(DataError, match=r"2 items of aqua .* more than once, the first of which is 3"):
        compare(here, here)


def change_scores(run, **changes):
    scores = json.loads((run / "scores.json").read_text())
    (run / "scores.json").write_text(json.dumps([{**score, **changes} for score in scores]))


def test_samples_that_are_not_those_scored_are_refused(tmp_path):
    run = write_run(tmp_path, tuned(ONE))
    change_scores(run, n=61)
    with pytest.raises(DataError, match=r"has 60 items of aqua .* but 61 were scored"):
        compare(run, run)
    change_scores(run, n=60, metric="acc", extractor="argmax")
    with pytest.raises(DataError, match=r"nothing to compare: aqua .* has no value for a single item"):
        compare(run, run)


def test_samples_that_are_damaged_or_missing_are_refused(tmp_path):
    run = write_run(tmp_path, tuned(ONE))
    path = run / "samples" / "aqua.jsonl"
    path.write_text('{"stage": "tuned"')
    with pytest.raises(DataError, match="is damaged or was edited"):
        compare(run, run)
    path.write_text('{"stage": "tuned"}')
    with pytest.raises(DataError, match="line 1 is no sample of an item"):
        compare(run, run)
    path.unlink()
    with pytest.raises(DataError, match="does not exist: without its items"):
        compare(run, run)


def test_runs_that_are_no_side_are_refused(tmp_path):
    run = write_run(tmp_path / "run", tuned(ONE))
    again = write_run(tmp_path / "again", tuned(TWO))
    with pytest.raises(RunError, match="have the same seed, 0"):
        compare([run, again], run)
    (again / "result.json").unlink()
    with pytest.raises(RunError, match="says the seed of the run"):
        compare([run, again], run)
    with pytest.raises(RunError, match="a side without a run"):
        compare([], run)
    with pytest.raises(RunError, match=r"scores\.json does not exist"):
        compare(run, tmp_path)
    with pytest.raises(DataError, match="nothing to compare: neither has scores of base"):
        compare(run, run, stages=("base", "base"))


def test_a_finished_run_is_compared_with_itself(finished):
    comparison = compare(finished, finished, stages=("tuned", "base"))
    assert {row.task for row in comparison.rows} == {"wordmath"} and comparison.skipped == ()
    assert all(row.difference.items == 8 for row in comparison.rows)
