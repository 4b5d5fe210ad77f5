"""Oracle: the table of sources and protocols in the module, row by row."""

from pathlib import Path

import lm_eval.tasks
import pytest
import yaml
from pydantic import ValidationError

from spectral_ft.configuration import CONF
from spectral_ft.data.rows import Item
from spectral_ft.errors import ConfigError
from spectral_ft.evaluation.task import Task
from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "spectral_ft" / "evaluation"
GSM8K = Task(name="gsm8k", templates={"paper": "number"}, harness_task="gsm8k/gsm8k.yaml")
FILMS = Task(name="films", templates={}, classes=["negative", "positive"])
WORDMATH = Task(name="wordmath", templates={"standard": "wordmath"})
MAWPS = Task(name="mawps", templates={"paper": "number"}, rows=dict)
RAW = [Item("q", "a", "1", {"question": "q"})]
COPY = [Item("q", "a", "1")]


@pytest.mark.parametrize(
    ("task", "items", "asked", "chosen"),
    [
        (GSM8K, None, "auto", "standard"),
        (GSM8K, None, "standard", "standard"),
        (GSM8K, RAW, "auto", "paper"),
        (GSM8K, RAW, "standard", "standard"),
        (GSM8K, RAW, "paper", "paper"),
        (GSM8K, COPY, "auto", "paper"),
        (GSM8K, COPY, "paper", "paper"),
        (WORDMATH, COPY, "auto", "standard"),
        (WORDMATH, COPY, "standard", "standard"),
        (FILMS, COPY, "auto", "standard"),
        (FILMS, COPY, "standard", "standard"),
    ],
)
def test_a_source_has_its_protocols(task, items, asked, chosen):
    assert task.choose_protocol(asked, items) == chosen


@pytest.mark.parametrize(
    ("task", "items", "asked", "way_out"),
    [
        (GSM8K, None, "paper", r"gsm8k does not exist as protocol=paper.*for `paper` give benchmark\.data_dir=FOLDER"),
        (GSM8K, COPY, "standard", r"protocol=standard.*lack what lm-eval's own task shows.*protocol=paper"),
        (WORDMATH, COPY, "paper", r"wordmath does not exist as protocol=paper.*It has standard; use .*standard"),
        (
            MAWPS,
            None,
            "standard",
            r"mawps does not exist as protocol=standard.*lm-eval has no task of it: give .*data_dir",
        ),
        (MAWPS, None, "auto", "mawps does not exist as protocol=standard"),
        (MAWPS, COPY, "standard", r"mawps does not exist as protocol=standard.*It has paper; use .*protocol=paper"),
        (MAWPS, None, "paper", "lm-eval has no task of it"),
        (FILMS, COPY, "paper", "films does not exist as protocol=paper.*It has standard; use .*standard"),
        (Task(name="t", templates={}), RAW, "paper", "It has no own template"),
    ],
)
def test_any_other_is_refused_with_a_way_out(task, items, asked, way_out):
    with pytest.raises(ConfigError, match=way_out):
        task.choose_protocol(asked, items)


def test_items_of_which_some_lack_the_fields_are_no_raw_file():
    with pytest.raises(ConfigError, match="lack what lm-eval's own task shows"):
        GSM8K.choose_protocol("standard", [*RAW, *COPY])


@pytest.mark.parametrize(("count", "words"), [(2, []), (1, ["films has 1 items here, 2 in the published test file"])])
def test_another_number_of_items_than_the_published_is_told(count, words, caplog):
    Task(name="films", templates={"paper": "number"}, size=2).choose_protocol("auto", COPY * count)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        f"benchmark {each}" for each in words
    ]


def test_the_hubs_items_are_not_counted(caplog):
    Task(name="films", templates={}, harness_task="x", size=2).choose_protocol("auto", None)
    assert not caplog.records


def test_an_unknown_protocol_has_no_template():
    with pytest.raises(ValidationError, match="templates"):
        Task(name="t", templates={"mine": "number"})


@pytest.mark.parametrize(
    ("task", "kind", "labels"),
    [
        (GSM8K, "causal_lm", None),
        (GSM8K, "seq2seq", None),
        (FILMS, "classifier", ["negative", "positive"]),
        (FILMS, "classifier", ["positive", "neutral", "negative"]),
    ],
)
def test_a_model_that_can_do_a_task_is_let_through(task, kind, labels):
    task.check_model(kind, labels)


@pytest.mark.parametrize(
    ("task", "kind", "labels", "message"),
    [
        (GSM8K, "classifier", ["a", "b"], r"gsm8k wants a written answer, and model\.kind=classifier writes none"),
        (FILMS, "causal_lm", None, r"films sorts texts into negative, positive, which model\.kind=causal_lm does not"),
        (FILMS, "seq2seq", None, r"films sorts texts into .* which model\.kind=seq2seq does not: use a classifier"),
        (
            FILMS,
            "classifier",
            ["negative", "good"],
            r"has the class 'positive', none of model\.labels=.*negative, positive,",
        ),
    ],
)
def test_a_model_that_cannot_is_refused(task, kind, labels, message):
    with pytest.raises(ConfigError, match=message):
        task.check_model(kind, labels)


TASKS = {
    name: task
    for file in sorted((CONF / "benchmark").glob("[!_]*.yaml"))
    for name, task in (yaml.safe_load(file.read_text()).get("tasks") or {}).items()
}


@pytest.mark.parametrize("name", TASKS)
def test_the_task_files_that_a_benchmark_names_are_there(name):
    own = [f"{file}.yaml" for file in TASKS[name]["templates"].values()]
    assert all((PACKAGE / "tasks" / file).is_file() for file in own), own
    if theirs := TASKS[name].get("harness_task"):
        assert (Path(lm_eval.tasks.__file__).parent / theirs).is_file()
    assert own or theirs or TASKS[name]["classes"]
