"""Tables of runs; oracle: the statistics of the typed answers, Holm's correction by statsmodels, the published file."""

import json
import math
import shutil

import numpy as np
import pytest
from scipy.stats import t as student
from statsmodels.stats.multitest import multipletests

from spectral_ft.errors import ConfigError, DataError, RunError
from spectral_ft.reporting.records import planned_jobs, run_folders
from spectral_ft.reporting.result_table import result_table
from spectral_ft.statistics.seeds import difference_over_seeds, mean_over_seeds
from spectral_ft.storage import write_json
from tests.conftest import edit_json
from tests.reporting.runs import LORA, write_record, write_sweep

GENERATOR = np.random.default_rng(1)
ITEMS = 80
STRONG = (GENERATOR.random((2, ITEMS)) < 0.9).astype(float)
MIDDLE = (GENERATOR.random((2, ITEMS)) < 0.5).astype(float)
WEAK = (GENERATOR.random((2, ITEMS)) < 0.45).astype(float)
ARMS = {"strong": STRONG, "middle": MIDDLE, "weak": WEAK}
PLAN = {"trainable_percent": 1.5, "trainable_parameters": 3}
TRAIN = {"peak_memory_bytes": 2**30, "seconds": 90.0}


def write_arms(folder, arms=None, *, task="aqua", **written):
    """A sweep of the given answers, (seeds, items) an arm."""
    arms = arms or ARMS
    jobs = [(f"{arm}{seed}", arm, seed) for arm, answers in arms.items() for seed in range(len(answers))]
    write_sweep(folder, jobs)
    for run_id, arm, seed in jobs:
        answers = {task: {"base": np.zeros(len(arms[arm][seed])), "tuned": arms[arm][seed]}}
        write_record(
            folder / run_id,
            answers,
            run_id=run_id,
            seed=seed,
            options={**LORA, "method.name": arm.split("/")[-1]},
            changes={"plan": PLAN, "train": {**TRAIN, "seconds": 90.0 + 20 * seed}},
            **written,
        )
    return folder


def table(folder, **options):
    return result_table(run_folders([folder]), planned_jobs([folder]), **options)


def test_means_intervals_and_costs_are_those_of_the_answers(tmp_path):
    found = table(write_arms(tmp_path))
    assert [row.arm for row in found.rows] == list(ARMS) and found.tasks == ("aqua",)
    for arm, answers in ARMS.items():
        one = found.measured[arm, "aqua"]
        assert one.estimate == mean_over_seeds(answers) and one.seeds == (0, 1) and one.metric == "exact_match"
        assert np.array_equal(one.values, answers)
    row = found.rows[0]
    assert (row.trainable_percent, row.peak_memory_bytes, row.seconds) == (1.5, 2**30, 100.0)
    assert (row.finished, row.planned, row.reasons) == (2, 2, ()) and found.notes == ()


def test_the_best_stands_only_where_its_lead_does(tmp_path):
    found = table(write_arms(tmp_path))
    lead = difference_over_seeds(STRONG, MIDDLE, same_seeds=True)
    assert lead.p < 0.05 and found.ranking.leads["strong", "aqua"].p_holm == pytest.approx(lead.p)
    assert [arm for arm in ARMS if found.ranking.best((arm, "aqua"))] == ["strong"]
    shutil.rmtree(tmp_path)
    close = table(write_arms(tmp_path, {"middle": MIDDLE, "weak": WEAK}))
    assert not any(close.ranking.best((arm, "aqua")) for arm in ARMS)


def test_of_losses_the_least_is_best(tmp_path):
    losses = GENERATOR.exponential(size=(2, ITEMS))
    found = table(write_arms(tmp_path, {"large": losses + 5, "small": losses}, metric="loss"))
    assert found.ranking.best(("small", "aqua")) and not found.ranking.best(("large", "aqua"))


def test_differences_to_a_baseline_are_paired_and_corrected_together(tmp_path):
    found = table(write_arms(tmp_path), baseline="weak")
    lead = difference_over_seeds(STRONG, MIDDLE, same_seeds=True)
    tests = {arm: difference_over_seeds(ARMS[arm], WEAK, same_seeds=True) for arm in ("strong", "middle")}
    expected = multipletests([lead.p, tests["strong"].p, tests["middle"].p], method="holm")[1]
    assert found.ranking.leads["strong", "aqua"].p_holm == pytest.approx(expected[0])
    for arm, p in zip(tests, expected[1:], strict=True):
        difference = found.ranking.differences[arm, "aqua"]
        assert (difference.difference, difference.p) == (tests[arm].difference, tests[arm].p)
        assert difference.p_holm == pytest.approx(p)
    assert ("weak", "aqua") not in found.ranking.differences


def test_a_lead_over_the_baseline_is_one_test(tmp_path):
    found = table(write_arms(tmp_path, {"strong": STRONG, "weak": WEAK}), baseline="weak")
    assert found.ranking.leads["strong", "aqua"].p_holm == found.ranking.leads["strong", "aqua"].p


def test_the_frame_has_a_row_an_arm_and_task_in_plain_numbers(tmp_path):
    frame = table(write_arms(tmp_path), baseline="weak").frame()
    assert list(frame["arm"]) == list(ARMS) and set(frame["task"]) == {"aqua"}
    first = frame.iloc[0]
    assert first["mean"] == pytest.approx(STRONG.mean()) and first["low"] < first["mean"] < first["high"]
    assert first["difference"] == pytest.approx(STRONG.mean() - WEAK.mean()) and first["seconds"] == 100.0
    assert math.isnan(frame.iloc[2]["difference"]) and first["seeds"] == 2 and first["items"] == ITEMS
    assert list(table(tmp_path).frame()["best"]) == [True, False, False]


# ---- published numbers


def test_published_numbers_stand_beside_the_measured_ones(tmp_path):
    folder = write_arms(tmp_path, {"arithmetic/lora": MIDDLE, "arithmetic/pref_t": WEAK})
    found = table(folder)
    assert set(found.tasks) == {"aqua", "gsm8k", "mawps", "svamp"}
    frame = found.frame().set_index(["arm", "task"])
    assert frame.loc[("arithmetic/lora", "aqua"), "published"] == pytest.approx(0.189)
    assert frame.loc[("arithmetic/lora", "aqua"), "mean"] == pytest.approx(MIDDLE.mean())
    assert "2304.01933" in frame.loc[("arithmetic/pref_t", "svamp"), "source"]
    assert math.isnan(frame.loc[("arithmetic/pref_t", "svamp"), "mean"])
    assert f"aqua was published over 254 items and measured over {ITEMS}." in found.notes


def test_published_numbers_are_found_by_the_arm_where_it_has_several_settings(tmp_path):
    write_sweep(tmp_path, [(name, "arithmetic/lora", 0, f"model={name}") for name in ("tiny", "llama", "later")])
    for name in ("tiny", "llama"):
        write_record(tmp_path / name, {"aqua": {"tuned": MIDDLE[0]}}, run_id=name, options={**LORA, "model.name": name})
    frame = table(tmp_path).frame().set_index(["arm", "task"])
    arms = [f"arithmetic/lora ({option})" for option in ("model.name=tiny", "model.name=llama", "model=later")]
    assert list(dict.fromkeys(frame.index.get_level_values("arm"))) == arms
    for arm in arms:
        assert frame.loc[(arm, "aqua"), "published"] == pytest.approx(0.189)


# ---- what is not finished


def test_failed_cut_and_missing_runs_are_told_with_their_reasons(tmp_path):
    folder = write_arms(tmp_path)
    for name in ("weak0", "weak1", "middle1"):
        (folder / name / "result.json").unlink()
    (folder / "weak0" / "run.json").unlink()
    failure = {"run_id": "weak0", "error": "no memory left", "type": "OutOfMemory", "overrides": ["arm=weak", "seed=0"]}
    write_json(folder / "weak0" / "failure.json", failure)
    shutil.rmtree(folder / "weak1")
    found = table(folder)
    rows = {row.arm: row for row in found.rows}
    assert rows["weak"].finished == 0 and rows["weak"].planned == 2 and ("weak", "aqua") not in found.measured
    assert rows["weak"].reasons == ("failed, seed 0: no memory left", "missing, seed 1.")
    assert rows["middle"].reasons[0].startswith("cut, seed 1: ") and rows["middle"].planned == 2
    assert found.measured["middle", "aqua"].seeds == (0,)
    assert any(note.startswith("intervals of arms with one seed are over items alone") for note in found.notes)
    frame = found.frame().set_index("arm")
    assert math.isnan(frame.loc["weak", "mean"]) and "no memory left" in frame.loc["weak", "reasons"]
    with pytest.raises(ConfigError, match="--baseline weak has no finished run"):
        table(folder, baseline="weak")


def test_runs_that_scored_nothing_have_a_row(tmp_path):
    write_record(tmp_path / "a", run_id="a", changes={"scores": [], "train": TRAIN})
    found = table(tmp_path)
    assert found.tasks == () and found.rows[0].seconds == 90.0 and len(found.frame()) == 1


def test_an_untrained_base_is_scored_as_it_is(tmp_path):
    write_record(tmp_path / "a", {"aqua": {"base": MIDDLE[0]}}, run_id="a")
    assert table(tmp_path).measured["lora/uniform", "aqua"].value == pytest.approx(MIDDLE[0].mean())


def test_the_base_s_score_is_not_taken_for_that_of_a_trained_arm(tmp_path):
    for name, options in (("never", {"method.name": "none"}), ("only", {}), ("both", {"method.name": "dora"})):
        answers = {"base": MIDDLE[0], "tuned": STRONG[0]} if name == "both" else {"base": MIDDLE[0]}
        changes = {"plan": {**PLAN, "trainable_parameters": 0 if name == "never" else 3}}
        write_record(tmp_path / name, {"aqua": answers}, run_id=name, options={**LORA, **options}, changes=changes)
    found = table(tmp_path)
    assert {arm: one.value for (arm, _), one in found.measured.items()} == {
        "none/uniform": pytest.approx(MIDDLE[0].mean()),
        "dora/uniform": pytest.approx(STRONG[0].mean()),
    }
    assert [row.arm for row in found.rows] == ["dora/uniform", "lora/uniform", "none/uniform"]
    said = "lora/uniform was scored before its training only (benchmark.stages), so it has no score of its own."
    assert said in found.notes and sum("no score of its own" in note for note in found.notes) == 1


# ---- scores without single items


def test_without_samples_the_interval_is_over_seeds_alone_and_nothing_is_tested(tmp_path):
    folder = write_arms(tmp_path, {"a": STRONG, "b": WEAK[:1]})
    shutil.rmtree(folder / "a0" / "samples")
    found = table(folder, baseline="b")
    means = STRONG.mean(1)
    half = student.ppf(0.975, 1) * means.std(ddof=1) / np.sqrt(2)
    estimate = found.measured["a", "aqua"].estimate
    assert (estimate.low, estimate.high) == pytest.approx((means.mean() - half, means.mean() + half))
    assert estimate.over == "seeds" and found.measured["b", "aqua"].estimate.over == "items"
    assert not found.ranking.differences and any("has no samples" in note for note in found.notes)


def test_a_number_that_is_no_mean_over_items_has_no_interval_of_one_seed(tmp_path):
    folder = write_arms(tmp_path, {"a": STRONG[:1]}, metric="f1")
    for name in ("scores.json", "result.json"):
        path = folder / "a0" / name
        record = json.loads(path.read_text())
        scores = record if name == "scores.json" else record["scores"]
        scores[1]["value"] = 0.123
        path.write_text(json.dumps(record))
    found = table(folder)
    assert found.measured["a", "aqua"].estimate is None and found.measured["a", "aqua"].value == 0.123
    assert any("is no mean over items" in note for note in found.notes)


# ---- refusals


def test_a_run_that_is_there_twice_is_refused(tmp_path):
    write_record(tmp_path / "a", run_id="same")
    write_record(tmp_path / "b", run_id="same")
    with pytest.raises(RunError, match=r"a and .*b are the same run, same: give one of them"):
        table(tmp_path)


def test_an_arm_that_has_a_seed_twice_is_refused(tmp_path):
    write_record(tmp_path / "a", run_id="a")
    write_record(tmp_path / "b", run_id="b")
    with pytest.raises(RunError, match="are both lora/uniform with seed 0"):
        table(tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": 1}, "not of one record format: .*a has 2, .*b has 1"),
        ({"versions": {"spectral_ft": "9"}}, "not of one version of spectral_ft: .*a has 0, .*b has 9"),
        (
            {"git_commit": "b" * 40 + "+changes"},
            "not of one commit: .*a has aaaaaaaaaa, .*b has bbbbbbbbbb with changes",
        ),
    ],
)
def test_records_of_other_origin_are_mixed_only_when_asked(tmp_path, changes, sentence):
    known = {"versions": {"spectral_ft": "0"}, "git_commit": "a" * 40}
    write_record(tmp_path / "a", run_id="a", changes=known)
    write_record(tmp_path / "b", run_id="b", seed=1, changes={**known, **changes})
    with pytest.raises(RunError, match=sentence + ".*--mix"):
        table(tmp_path)
    found = table(tmp_path, mix=True)
    assert found.rows[0].finished == 2 and any(note.startswith("mixed: ") for note in found.notes)


def test_records_that_are_all_of_an_older_format_are_shown_and_said(tmp_path):
    write_record(tmp_path / "a", run_id="a", changes={"format": 1})
    assert any("older format" in note for note in table(tmp_path).notes)


def test_other_items_or_rules_are_refused(tmp_path):
    one = write_arms(tmp_path / "one", {"a": STRONG[:1]})
    fewer = write_arms(tmp_path / "fewer", {"b": STRONG[:1, :50]})
    with pytest.raises(DataError, match=f"aqua was scored on {ITEMS} and on 50 items"):
        result_table(run_folders([one, fewer]), None)
    reworded = write_arms(tmp_path / "reworded", {"b": STRONG[:1]}, prompt="Q: ")
    with pytest.raises(DataError, match="80 have another prompt"):
        result_table(run_folders([one, reworded]), None)
    other_rule = write_arms(tmp_path / "rule", {"b": STRONG[:1]}, extractor="last-number")
    with pytest.raises(
        DataError, match=r"by exact_match \(strict, standard, 0-shot\) and by exact_match \(last-number"
    ):
        result_table(run_folders([one, other_rule]), None)


def test_a_baseline_that_is_no_row_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--baseline lora is no row: there is strong, middle, weak"):
        table(write_arms(tmp_path), baseline="lora")


def test_edits_of_a_record_are_not_overlooked(tmp_path):
    folder = write_arms(tmp_path)
    edit_json(folder / "weak0" / "result.json", scores="gone")
    found = table(folder)
    assert next(row for row in found.rows if row.arm == "weak").reasons[0].startswith("damaged, seed 0: ")
