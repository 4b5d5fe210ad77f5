"""What was run, what became of it, overlap and commands; oracle: typed records."""

import json

from spectral_ft.reporting.page.overlaps import overlaps_section
from spectral_ft.reporting.page.overview import counts_text, overview_section
from spectral_ft.reporting.page.reproduction import COMMANDS, reproduction_section
from spectral_ft.reporting.page.results import LETTERS, results_section
from spectral_ft.reporting.page.scores import change, scores_of
from spectral_ft.reporting.page.settings import settings_section
from spectral_ft.reporting.page.texts import memory_text, option_text, time_text
from spectral_ft.reporting.records import run_folders
from spectral_ft.reporting.sweep_plan import PlannedJob, SweepPlan
from spectral_ft.statistics.seeds import difference_over_seeds, mean_over_seeds
from tests.conftest import edit_json
from tests.reporting.page.folders import OVERLAP, arms_in, write_full

RIGHT = {"aqua": {"base": [0, 0, 1], "tuned": [1, 0, 1]}}
KEY = ("aqua", "exact_match", "strict")


def test_only_what_differs_is_set_beside_each_other(tmp_path):
    for seed in (0, 1):
        write_full(tmp_path / f"a{seed}", "one", RIGHT, seed=seed)
        write_full(tmp_path / f"b{seed}", "three", RIGHT, seed=seed)
    section = settings_section(arms_in(tmp_path))
    assert section.tables[0].headings == ("option", "one", "three")
    assert section.tables[0].rows == (("method.name", "one", "three"), ("training.learning_rate", "0.003", "0.005"))
    assert section.folded[0].rows == (("rank_policy._target_", "spectral_ft.allocation.none.NoPolicy"),)
    assert section.lead.startswith("2 options differ, 1 are the same")


def test_options_are_written_as_the_command_line_takes_them():
    assert [option_text(value) for value in (None, True, 0.1, ["a", None], "x")] == [
        "null",
        "true",
        "0.1",
        "[a,null]",
        "x",
    ]


def test_scores_are_those_of_the_statistics(tmp_path):
    answers = [[[0, 0, 1, 0], [1, 0, 1, 1]], [[0, 0, 1, 0], [1, 1, 0, 1]]]
    for seed, (base, tuned) in enumerate(answers):
        write_full(tmp_path / f"{seed}", "one", {"aqua": {"base": base, "tuned": tuned}}, seed=seed)
    arms = arms_in(tmp_path)
    scores = scores_of(arms)
    bases, tuneds = ([each[stage] for each in answers] for stage in (0, 1))
    for stage, table in (("base", bases), ("tuned", tuneds)):
        found, expected = scores.of(arms[0], KEY, stage), mean_over_seeds(table)
        assert (found.value, found.low, found.high) == (expected.value, expected.low, expected.high)
        assert (found.items, found.seeds) == (4, 2)
    assert change(scores, arms[0], KEY) == difference_over_seeds(tuneds, bases, same_seeds=True)
    section = results_section(arms, scores)
    (chart,) = section.intervals
    assert [bar.hollow for bar in chart.bars] == [True, False]
    ticks = {float(tick.text): tick.at for tick in chart.ticks}
    assert chart.bars[1].at == ticks[0] + 0.75 * (ticks[100] - ticks[0])


def test_p_is_corrected_over_all_arms_and_tasks(tmp_path):
    answers = {
        "one": {"aqua": {"base": [0] * 8, "tuned": [1] * 8}, "gsm8k": {"base": [0] * 7 + [1], "tuned": [1] * 7 + [0]}},
        "two": {"aqua": {"base": [0] * 8, "tuned": [1] * 3 + [0] * 5}},
    }
    for name, tasks in answers.items():
        write_full(tmp_path / name, name, tasks)
    arms = arms_in(tmp_path)
    section, scores = results_section(arms, scores_of(arms)), scores_of(arms)
    tests = [(arms[0], KEY), (arms[1], KEY), (arms[0], ("gsm8k", *KEY[1:]))]
    raw = [change(scores, arm, key).p for arm, key in tests]
    assert raw[0] == 2 / 2**8  # McNemar, exact
    smallest, middle, largest = sorted(raw)
    expected = {smallest: 3 * smallest, middle: max(3 * smallest, 2 * middle), largest: max(2 * middle, largest)}
    shown = [
        table.rows[place][4]
        for table, place in zip([*section.tables[:1] * 2, section.tables[1]], (0, 1, 0), strict=True)
    ]
    assert shown == [f"{min(1.0, expected[p]):.3f}" for p in raw]


def test_long_names_lose_their_middle_in_drawings_alone(tmp_path):
    name = "x" * 40 + "y" * 40
    write_full(tmp_path / "a", name, RIGHT)
    arms = arms_in(tmp_path)
    section = results_section(arms, scores_of(arms))
    (base, _) = section.intervals[0].bars
    assert len(base.label) == LETTERS and base.label.startswith("xxx") and "y, base: 33.3 % [" in base.label
    assert base.text.startswith(f"{name}, base: 33.3 %") and name in section.intervals[0].description
    assert section.tables[0].rows[0][0] == name


def test_a_metric_that_is_no_mean_has_no_interval(tmp_path):
    run = write_full(tmp_path / "a", "one", RIGHT)
    record = json.loads((run / "result.json").read_text())
    more = {**record["scores"][1], "metric": "gold_perplexity", "value": 3.5}
    edit_json(run / "result.json", scores=[*record["scores"], more])
    arms = arms_in(tmp_path)
    section = results_section(arms, scores_of(arms))
    assert section.folded[0].rows[0][:3] == ("one", "-", "3.500")
    assert section.folded[0].notes == ("No interval where a score is no mean over items, or its items are not there.",)
    assert section.notes == () and section.tables[0].notes == ()


def test_a_score_without_items_says_why(tmp_path):
    for seed in (0, 1):
        (write_full(tmp_path / f"{seed}", "one", RIGHT, seed=seed) / "samples" / "aqua.jsonl").unlink()
    arms = arms_in(tmp_path)
    scores = scores_of(arms)
    found = scores.of(arms[0], KEY, "tuned")
    assert found.value == 2 / 3 and found.low is None and found.seeds == 2
    assert len(scores.notes) == 1 and "without its items a score cannot be compared" in scores.notes[0]
    assert change(scores, arms[0], KEY) is None


def test_a_seed_counts_once(tmp_path):
    for name in ("a", "b"):
        write_full(tmp_path / name, "one", RIGHT)
    arms = arms_in(tmp_path)
    scores = scores_of(arms)
    assert scores.of(arms[0], KEY, "tuned").seeds == 1
    told = f"{tmp_path / 'a'} and {tmp_path / 'b'} are both one, seed 0: only the first counts."
    assert scores.notes == (told,)


def test_runs_of_different_code_are_told(tmp_path):
    write_full(tmp_path / "a", "one", RIGHT)
    edit_json(write_full(tmp_path / "b", "two", RIGHT) / "result.json", git_commit="deadbeef")
    (note,) = overview_section(arms_in(tmp_path), None).notes
    assert "not of one commit" in note and "c0ffee" in note and "deadbeef" in note


def test_runs_are_counted_by_what_became_of_them(tmp_path):
    write_full(tmp_path / "a", "one", RIGHT)
    (write_full(tmp_path / "b", "two", RIGHT) / "result.json").write_text("{")
    (write_full(tmp_path / "c", "three", RIGHT) / "result.json").unlink()
    plan = SweepPlan("x", (PlannedJob("one0", ("a=1",)), PlannedJob("late", ("arm=y", "seed=3"), "y", 3)))
    runs = run_folders([tmp_path])
    assert counts_text(runs, plan) == "1 finished, 1 cut, 1 damaged, 1 missing" and counts_text(runs, None).endswith(
        "damaged"
    )
    section = overview_section(arms_in(tmp_path), plan)
    assert [(row[0], row[2]) for row in section.tables[0].rows] == [
        ("two", "!\N{NO-BREAK SPACE}damaged"),
        ("three", "✂\N{NO-BREAK SPACE}cut"),
        ("y", "?\N{NO-BREAK SPACE}missing"),
    ]
    assert [row[4] for row in section.folded[0].rows] == ["61.0 s", "-", "-"]


def test_overlap_of_equal_arms_stands_once(tmp_path):
    write_full(tmp_path / "a", "one", RIGHT)
    other = write_full(tmp_path / "b", "two", RIGHT)
    (row,) = overlaps_section(arms_in(tmp_path)).tables[0].rows
    assert row == ("all", "words, 1,234 rows", "aqua", "4", "1", "2", "3", "yes")
    edit_json(other / "result.json", overlap={**OVERLAP, "dropped_rows": 0, "tasks": {**OVERLAP["tasks"], "hub": None}})
    rows = overlaps_section(arms_in(tmp_path)).tables[0].rows
    assert [(row[0], row[2], row[3], row[-1]) for row in rows] == [
        ("one", "aqua", "4", "yes"),
        ("two", "aqua", "4", "no"),
        ("two", "hub", "not compared", "-"),
    ]


def test_commands_can_be_pasted_into_a_shell(tmp_path):
    jobs = tuple(PlannedJob(f"{n}", ("method={name: 'x y'}", f"seed={n}")) for n in range(COMMANDS + 3))
    section = reproduction_section((), SweepPlan(None, jobs))
    assert section.commands[1] == "python -m spectral_ft.run 'method={name: '\"'\"'x y'\"'\"'}' seed=1"
    assert len(section.commands) == COMMANDS and section.notes == ("3 more commands are in the sweep's sweep.json.",)
    assert "No sweep.json says the commands" in reproduction_section((), None).notes[0]


def test_the_whole_sweep_is_the_command_that_was_given():
    jobs = tuple(PlannedJob(f"{n}", ("experiment=x", f"seed={n}")) for n in range(2))
    said = ("experiment=x", "seed=0,1", "hydra/launcher=joblib")
    section = reproduction_section((), SweepPlan("x", jobs, (said,)))
    assert section.commands[0] == "python -m spectral_ft.run experiment=x seed=0,1 hydra/launcher=joblib"
    assert section.lead.startswith("The first command is the whole sweep") and len(section.commands) == 3
    section = reproduction_section((), SweepPlan("x", jobs, (said, ("-m", "method=lora,dora"))))
    assert section.commands[1] == "python -m spectral_ft.run -m method=lora,dora"
    assert section.lead.startswith("The first 2 commands are") and len(section.commands) == 4
    section = reproduction_section((), SweepPlan("x", jobs))  # of a list without them nobody knows the grid
    assert len(section.commands) == 2 and section.lead == ""


def test_versions_that_differ_are_told(tmp_path):
    for seed in (0, 1):
        write_full(tmp_path / f"{seed}", "one", RIGHT, seed=seed)
    section = reproduction_section(arms_in(tmp_path), None)
    assert dict(section.tables[0].rows)["peft"] == "0.0; 0.1" and dict(section.tables[0].rows)["torch"] == "2.9"
    assert section.notes[0] == "Runs differ in peft."


def test_times_and_sizes_have_fitting_units():
    assert [time_text(value) for value in (3, 600, 9000)] == ["3.0 s", "10.0 min", "2.5 h"]
    assert memory_text(3 * 2**29) == "1.50 GiB"
