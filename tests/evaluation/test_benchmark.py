"""Oracle: folders chosen by eye."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from spectral_ft.errors import ConfigError, DataError
from spectral_ft.evaluation.benchmark import Benchmark
from spectral_ft.evaluation.task import Task

TASK = Task(name="gsm8k", templates={"paper": "number"})


def benchmark(**options):
    """A benchmark of one task, with the options of its file but for those given."""
    defaults = {
        "tasks": {"gsm8k": TASK},
        "data_dir": None,
        "protocol": "auto",
        "limit": None,
        "num_fewshot": None,
        "batch_size": 16,
        "generation": {},
        "chat_template": False,
        "gold_loss": False,
        "stages": ["base", "tuned"],
        "cache": False,
    }
    return Benchmark(**defaults | options)


@pytest.mark.parametrize(
    ("own", "dataset", "dataset_folder", "folder"),
    [
        (None, "gsm8k", "/train", Path("/train")),
        (None, "math10k", "/train", None),
        (None, "gsm8k", None, None),
        ("/test", "gsm8k", "/train", Path("/test")),
        ("/test", "math10k", None, Path("/test")),
    ],
)
def test_a_tasks_folder_is_the_benchmarks_or_that_of_its_own_data_set(own, dataset, dataset_folder, folder):
    assert benchmark(data_dir=own).folder_of(TASK, dataset=dataset, dataset_folder=dataset_folder) == folder


def test_a_file_of_training_data_is_not_the_test_file(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}")
    file = str(tmp_path / "train.jsonl")
    assert benchmark().folder_of(TASK, dataset="gsm8k", dataset_folder=file) == tmp_path
    assert benchmark(data_dir=file).folder_of(TASK, dataset="gsm8k", dataset_folder=None) == Path(file)


SUITE = {
    "aqua": Task(name="aqua", templates={"paper": "letter"}, folders=["AQuA", "aqua"]),
    "svamp": Task(name="svamp", templates={"paper": "number"}, folders=["SVAMP"]),
    "mawps": Task(name="mawps", templates={"paper": "number"}, folders=["mawps"]),
}


def folder_of_first(tasks, folder):
    first = next(iter(tasks.values()))
    return benchmark(tasks=tasks, data_dir=str(folder)).folder_of(first, dataset="gsm8k", dataset_folder=None)


def test_a_suite_takes_the_parent_of_its_folders(tmp_path):
    for name in ("aqua", "SVAMP", "mawps"):
        (tmp_path / name).mkdir()
    assert folder_of_first(SUITE, tmp_path) == tmp_path


def test_the_folders_that_a_suite_misses_are_named(tmp_path):
    (tmp_path / "AQuA").mkdir()
    said = (
        r"has no folder for svamp, mawps \(SVAMP, mawps\); of the 3 tasks it has aqua\. Add them, or leave them out: "
        r"~benchmark\.tasks\.svamp ~benchmark\.tasks\.mawps\."
    )
    with pytest.raises(DataError, match=said):
        folder_of_first(SUITE, tmp_path)


def test_a_suite_does_not_read_one_file_for_every_task(tmp_path):
    (tmp_path / "test.json").write_text("[]")
    for place in (tmp_path, tmp_path / "test.json"):
        with pytest.raises(DataError, match=r"has no folder for aqua, svamp, mawps .*; of the 3 tasks it has none"):
            folder_of_first(SUITE, place)
    assert folder_of_first({"aqua": SUITE["aqua"]}, tmp_path) == tmp_path


def test_a_generated_task_of_a_suite_needs_no_folder(tmp_path):
    (tmp_path / "AQuA").mkdir()
    made = Task(name="wordmath", templates={"standard": "wordmath"}, own_items=list)
    assert folder_of_first({"aqua": SUITE["aqua"], "wordmath": made}, tmp_path) == tmp_path


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    here = benchmark(data_dir="~/test", cache="~/cache")
    assert here.folder_of(TASK, dataset="gsm8k", dataset_folder=None) == tmp_path / "test"
    assert here.cache_folder == tmp_path / "cache" / "base_scores"
    assert benchmark().cache_folder is None


@pytest.mark.parametrize(
    "wrong",
    [{"limit": 0}, {"batch_size": 0}, {"num_fewshot": -1}, {"stages": ["after"]}, {"protocol": "own"}, {"cache": True}],
)
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        benchmark(**wrong)


@pytest.mark.parametrize(
    ("generation", "sentence"),
    [
        ({"max_gen_toks": 0}, "benchmark.generation.max_gen_toks=0: at least 1 new token"),
        ({"max_gen_toks": "many"}, "benchmark.generation.max_gen_toks=many: at least 1 new token"),
        ({"max_new_tokens": 5}, "benchmark.generation.max_new_tokens is not the harness's name"),
    ],
)
def test_generation_must_end(generation, sentence):
    with pytest.raises(ConfigError, match=sentence):
        benchmark(generation=generation)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"num_fewshot": 5}, "benchmark.num_fewshot=5 has no meaning for sst2, of which a classifier reads the plain"),
        ({"generation": {"max_gen_toks": 5}}, "benchmark.generation={'max_gen_toks': 5} has no meaning for sst2"),
        ({"chat_template": True}, "benchmark.chat_template=True has no meaning for sst2"),
    ],
)
def test_a_classifier_is_asked_nothing(option, sentence):
    sst2 = Task(name="sst2", templates={}, classes=["negative", "positive"])
    benchmark(tasks={"sst2": sst2}, num_fewshot=0)
    benchmark(tasks={"sst2": sst2, "gsm8k": TASK}, **option)
    with pytest.raises(ConfigError, match=sentence):
        benchmark(tasks={"sst2": sst2}, **option)
