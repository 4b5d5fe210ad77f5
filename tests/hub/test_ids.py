"""Every id of conf/ is loaded once by the libraries' own clients, from a tiny repository of its published layout."""

import pickle
import re
import shutil

import pytest

from spectral_ft.configuration import CONF
from spectral_ft.errors import CheckpointError
from spectral_ft.models.loading import load_model, load_tokenizer
from spectral_ft.stages.base import load_base
from spectral_ft.stages.benchmarks import prepare_tasks, source_tasks
from tests.test_compose import built


def choices(group: str, needs: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml") if re.search(needs, path.read_text(), re.M))


MODELS = choices("model", r"^id: ")
DATA_SETS = choices("dataset", r"^hub: ")
TASKS = choices("benchmark", "harness_task: |hub: ")
BLANK = ("dataset=wordmath", "benchmark=none", "quantization=none", "general_text=none")


def test_nothing_in_conf_is_left_unconfirmed():
    lines = [line for path in CONF.rglob("*.yaml") for line in path.read_text().splitlines()]
    named = [line for line in lines if re.search(r"\bid: [\w.-]+/[\w.-]+", line)]
    assert len(named) >= len(MODELS) + len(DATA_SETS)
    assert all(re.search(r"confirmed \d{4}-\d\d-\d\d: \w", line) for line in named)


@pytest.mark.parametrize("choice", MODELS)
def test_a_model_is_loaded_from_the_files_it_needs(choice, shared_cache):
    shared_cache.log.clear()
    experiment = built(f"model={choice}", *BLANK)
    source = experiment.model
    checkpoint = source.locate(weights=False)
    assert shared_cache.files() == [] and not checkpoint.has_weights
    tokenizer = load_tokenizer(checkpoint.folder, kind=source.kind, trust_remote_code=False)
    assert len(tokenizer("house 12")["input_ids"]) > 1
    checkpoint = source.complete(checkpoint)
    checkpoint.check_whole()
    ending = ".bin" if choice == "llama-7b" else ".safetensors"
    fetched = shared_cache.files()
    assert fetched and all(name.startswith(source.id) and name.endswith(ending) for name in fetched)
    assert {path.name for path in checkpoint.folder.iterdir() if path.suffix in {".py", ".bin", ".safetensors"}} == {
        name.rpartition("/")[2] for name in fetched
    }
    assert checkpoint.matrices and checkpoint.block_matrices.read(checkpoint.matrices[0]).size
    assert sum(parameter.numel() for parameter in load_base(experiment, checkpoint).parameters()) > 1000


@pytest.mark.parametrize("choice", DATA_SETS)
def test_a_data_set_is_read(choice, shared_cache):
    dataset = built(f"dataset={choice}", "benchmark=none").dataset
    dataset.check_source()
    examples = dataset.examples()
    assert len(examples) > 20 and all(example.completion.strip() for example in examples)


def test_general_text_is_read(shared_cache):
    assert len(built("general_text=wikitext", "benchmark=none").general_text.documents()) == 2


@pytest.mark.parametrize("choice", TASKS)
def test_the_items_of_a_task_are_read(choice, shared_cache, tmp_path):
    labelled = choice in {"sst2", "imdb"}
    options = ["model=minilm"] if labelled else ["model=llama2-7b"]
    experiment = built(*options, f"benchmark={choice}")
    tasks = source_tasks(experiment)
    assert [task.task.name for task in tasks] == [choice]
    prepare_tasks(experiment, experiment.model.locate(weights=False), tasks, tmp_path)
    assert len(tasks[0].asked(None, tmp_path)) > 3


def test_a_slow_tokenizer_alone_is_enough(shared_cache):
    source = built("model=llama-7b", *BLANK).model
    folder = source.locate(weights=False).folder
    assert not (folder / "tokenizer.json").exists()
    tokenizer = load_tokenizer(folder, trust_remote_code=False)
    text = "In house 7 Ann has 3 apples"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_bin_weights_are_the_same_as_safetensors(shared_cache):
    options = ("model=llama-7b", *BLANK)
    loaded = [
        load_base(experiment, experiment.model.locate())
        for experiment in (built(*options), built(*options, "model.revision=refs/pr/3"))
    ]
    states = [model.state_dict() for model in loaded]
    assert states[0].keys() == states[1].keys()
    assert all(bool((states[0][name] == states[1][name]).all()) for name in states[0])


def test_bin_files_with_code_are_not_opened(shared_cache, tmp_path):
    source = built("model=llama-7b", *BLANK).model
    folder = shutil.copytree(source.locate().folder, tmp_path / "model")
    for file in folder.glob("*.bin"):
        file.unlink()
        file.write_bytes(pickle.dumps({"weight": print}, protocol=2))
    with pytest.raises(CheckpointError, match="pytorch_model"):
        load_model(folder, quantization=built(*BLANK).quantization, dtype="float32", trust_remote_code=False)
