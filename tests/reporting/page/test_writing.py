"""The page as a whole; oracle: the standard library's HTML parser, and the records that the numbers come from."""

import base64
import hashlib
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from spectral_ft import report
from spectral_ft.errors import RunError
from spectral_ft.reporting.page import write_page
from spectral_ft.reporting.records import run_folders
from spectral_ft.reporting.sweep_plan import SweepPlan
from spectral_ft.statistics.seeds import mean_over_seeds
from spectral_ft.storage import write_json
from tests.conftest import call_entry
from tests.reporting.page.folders import TRAIN, Page, page_of, write_full
from tests.reporting.runs import write_sweep

NASTY = "</pre><script>alert(1)</script><img src=x onerror=alert(2)> & \"'"
RIGHT = {"aqua": {"base": [0, 0, 0, 0], "tuned": [1, 1, 1, 0]}}
LESS = {"aqua": {"base": [0, 0, 0, 0], "tuned": [0, 1, 0, 1]}}


@pytest.fixture
def sweep(tmp_path):
    """Two arms of two seeds; one job failed and one is missing."""
    folder = tmp_path / "sweep"
    for seed in (0, 1):
        responses = {("tuned", item): NASTY for item in range(4)}
        write_full(folder / f"a{seed}", "many", RIGHT, seed=seed, trainable=400)
        write_full(folder / f"b{seed}", "<b>few", LESS, seed=seed, responses=responses)
    write_json(folder / "f" / "failure.json", {"run_id": "f", "error": f"out of {NASTY}", "type": "OutOfMemory"})
    jobs = [("many0", "many", 0), ("many1", "many", 1), ("<b>few0", "<b>few", 0), ("<b>few1", "<b>few", 1)]
    write_sweep(folder, [*jobs, ("f", "bad", 0), ("never", "late", 7)])
    return folder


def check_form(text, page):
    """What every page must be."""
    assert page.wrong == []
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = [one for _, attributes, _ in page.elements for one in attributes.get("aria-labelledby", "").split()]
    assert named and set(named) <= set(ids)
    targets = [attributes["href"] for attributes, _ in page.all("a")]
    assert targets and {target[1:] for target in targets} <= set(ids) and all(t[0] == "#" for t in targets)
    levels = [int(tag[1]) for tag, *_ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in pairwise(levels))
    for attributes, _ in page.all("svg"):
        assert attributes.get("role") == "img" or attributes["aria-hidden"] == "true"
    titled = [attributes for attributes, _ in page.all("svg") if attributes.get("role") == "img"]
    assert len(titled) == len([text for attributes, text in page.all("title") if "id" in attributes and text])


def check_alone(text, page):
    """That nothing is asked of a network, and only our script runs."""
    for tag, attributes, _ in page.elements:
        assert not {"src", "srcset", "action", "data", "poster", "xlink:href"} & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
    assert [attributes["href"] for attributes, _ in page.all("link")] == ["data:,"]
    (style,) = page.texts("style")
    assert "url(" not in style and "@import" not in style
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    assert len(page.all("script")) == 1 and not re.search(r"fetch|import|XMLHttp|https?:|src", script)
    (policy,) = [a["content"] for a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_a_sweep_is_well_formed_and_stands_alone(sweep, tmp_path):
    text, page = page_of(sweep, at=tmp_path)
    check_form(text, page)
    check_alone(text, page)
    assert page.texts("h1") == ["Sweep smoke"]
    assert page.texts("h2") == [
        "Runs",
        "Scores",
        "Item by item",
        "Accuracy and costs",
        "Training curves",
        "What was run",
        "Plans",
        "Spectra",
        "Drift of the weights",
        "Overlap with test items",
        "To make it again",
    ]


def test_what_models_and_errors_say_is_text(sweep, tmp_path):
    text, page = page_of(sweep, at=tmp_path)
    assert "<script>alert" not in text and "<img" not in text and "<b>" not in text
    assert NASTY in page.texts("pre")
    assert any(NASTY in cell for row in page.table("runs without a record") for cell in row)
    assert "<b>few" in page.table("aqua: exact_match (strict)")[2][0]


def test_the_numbers_are_those_of_the_records(sweep, tmp_path):
    _, page = page_of(sweep, at=tmp_path)
    heading, many, few = page.table("aqua: exact_match (strict)")
    none, half = binomtest(0, 4).proportion_ci(method="wilson"), mean_over_seeds([[0, 1, 0, 1]] * 2)
    assert heading[:4] == ["arm", "base", "fine-tuned", "fine-tuned less base"]
    assert many[1] == f"0.0 % [{100 * none.low:.1f}, {100 * none.high:.1f}]" and many[2].startswith("75.0 % [")
    assert few[2] == f"50.0 % [{100 * half.low:.1f}, {100 * half.high:.1f}]"
    assert many[3].startswith("+75.0 [") and many[5:] == ["4", "2"]
    costs = {row[0]: row for row in page.table("accuracy and costs")}
    assert costs["many"][2:] == [f"{100 * 400 / 10300:.3g} %", "400", "1.50 GiB", f"{TRAIN['seconds']:.1f} s"]
    assert costs["<b>few"][3] == "100"
    assert [cell.replace("all", "many") for cell in page.table("overlap")[1]] == [
        "many",
        "words, 1,234 rows",
        "aqua",
        "4",
        "1",
        "2",
        "3",
        "yes",
    ]


def test_runs_without_a_record_have_their_reason(sweep, tmp_path):
    _, page = page_of(sweep, at=tmp_path)
    rows = {row[0]: row[1:] for row in page.table("runs without a record")[1:]}
    assert rows["bad"][1:] == ["✗ failed", f"out of {NASTY}", "f"]
    assert rows["late"] == ["7", "? missing", "it has not begun.", "never"]
    assert "4 finished, 1 failed, 1 missing." in page.texts("p")
    assert len(page.table("all runs that have a folder")) == 1 + 5
    commands = page.texts("code")
    assert "python -m spectral_ft.run -m experiment=smoke" in commands
    assert "python -m spectral_ft.run arm=late seed=7" in commands
    assert ["peft", "0.0; 0.1"] in page.table("versions")


def test_without_its_script_the_page_shows_every_pair(sweep, tmp_path):
    write_full(sweep / "c", "third", RIGHT, seed=0)
    _, page = page_of(sweep, at=tmp_path)
    pairs = [attributes for attributes, _ in page.all("article")]
    assert len(pairs) == 3 and not any("hidden" in attributes for attributes in pairs)
    (choice,) = [attributes for attributes, _ in page.all("p") if attributes.get("id") == "pair-choice"]
    assert "hidden" in choice  # the script shows it


def test_one_run_has_a_page(tmp_path):
    run = write_full(tmp_path / "run", "alone", RIGHT)
    text, page = page_of(run, at=tmp_path)
    check_form(text, page)
    assert page.texts("h1") == ["Run alone0: alone"] and "Item by item" not in page.texts("h2")
    assert page.table("aqua: exact_match (strict)")[1][2].startswith("75.0 %")
    assert any("Item by item" in text for text in page.texts("p"))


def test_failed_runs_alone_have_a_page(tmp_path):
    for name in ("x", "y"):
        write_json(tmp_path / "sweep" / name / "failure.json", {"run_id": name, "error": "no memory.", "type": "E"})
    text, page = page_of(tmp_path / "sweep", at=tmp_path)
    check_form(text, page)
    assert "2 failed." in page.texts("p") and page.texts("h2") == ["Runs", "To make it again"]
    assert [row[3] for row in page.table("runs without a record")[1:]] == ["no memory.", "no memory."]


def test_a_sweep_that_has_not_begun_has_a_page(tmp_path):
    folder = tmp_path / "sweep"
    folder.mkdir()
    write_sweep(folder, [("one", "a", 0)])
    text, page = page_of(folder, at=tmp_path)
    check_form(text, page)
    assert "1 missing." in page.texts("p")


@pytest.mark.parametrize(
    "file", ["samples/aqua.jsonl", "train.jsonl", "plan.json", "spectrum.parquet", "drift.parquet"]
)
@pytest.mark.parametrize("damage", ["gone", "cut", "unreadable"])
def test_what_is_missing_or_damaged_hides_nothing_else(tmp_path, file, damage):
    run = write_full(tmp_path / "run", "alone", RIGHT)
    if damage != "cut":
        (run / file).unlink()
    if damage == "unreadable":
        (run / file).mkdir()
    if damage == "cut":
        (run / file).write_bytes((run / file).read_bytes()[:-30])
    text, page = page_of(run, at=tmp_path)
    check_form(text, page)
    # one run's share needs no items for Wilson's interval
    assert page.table("aqua: exact_match (strict)")[1][2] == "75.0 % [30.1, 95.4]"
    told = any(file.rpartition("/")[2] in text for text in page.texts("p"))
    assert told == (damage != "gone" or file.startswith("samples"))


def test_twenty_runs_of_many_tasks_stay_small(tmp_path):
    generator = np.random.default_rng(0)
    long = {("tuned", item): "word " * 400 for item in range(60)}
    for arm in range(10):
        for seed in range(2):
            answers = {f"task{n}": {"tuned": generator.random(60) < (0.9 if arm == 9 else 0.5)} for n in range(6)}
            folder = tmp_path / "sweep" / f"{arm}-{seed}"
            write_full(folder, f"arm{arm}", answers, seed=seed, responses=long, steps=1000)
    text, page = page_of(tmp_path / "sweep", at=tmp_path)
    check_form(text, page)
    assert len(text.encode()) < 2 * 2**20 and len(page.all("article")) == 17 * 6
    assert any("17 of 45 pairs are here" in note for note in page.texts("p"))


def test_a_page_of_nothing_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"page\.html would be a page of no run: give the folder"):
        write_page([], SweepPlan(experiment=None, jobs=()), tmp_path / "page.html")


def test_a_run_that_is_there_twice_is_refused(tmp_path):
    run = write_full(tmp_path / "one", "alone", RIGHT)
    shutil.copytree(run, tmp_path / "two")
    with pytest.raises(RunError, match=r"one and .*two are the same run, alone0: give one of them"):
        page_of(tmp_path, at=tmp_path)


def test_the_report_command_writes_the_page(tmp_path, capsys):
    run = write_full(tmp_path / "run", "alone", RIGHT)
    assert call_entry(report.main, str(run)) == 0
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert str(run / "report.html") in capsys.readouterr().out and page.texts("h1")[0].startswith("Run alone0: alone")


def test_records_without_folders_have_a_page(tmp_path):
    # as those that W&B has
    write_full(tmp_path / "run", "alone", RIGHT)
    (run,) = run_folders([tmp_path / "run"])
    path = write_page([replace(run, folder=Path("wandb:team/project/alone0"))], None, tmp_path / "page.html")
    page = Page(path.read_text(encoding="utf-8"))
    assert page.table("aqua: exact_match (strict)")[1][2] == "75.0 % [30.1, 95.4]" and page.wrong == []
