"""Oracle: folders chosen by eye."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from spectral_ft.errors import ConfigError
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
