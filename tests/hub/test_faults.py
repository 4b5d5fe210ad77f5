"""Each fault of a hub is one sentence with the way out, and nothing half-fetched is taken for whole."""

import errno
import os
import shutil
import socket
from pathlib import Path

import huggingface_hub.file_download
import pytest
from huggingface_hub import constants

from spectral_ft.errors import CheckpointError, DataError, HubError
from spectral_ft.evaluation.harness_items import harness_items
from spectral_ft.hub import ask_hub, download_rows
from spectral_ft.stages.benchmarks import source_tasks
from tests.conftest import call_entry
from tests.hub.test_ids import BLANK
from tests.test_compose import built

LLAMA = "meta-llama/Llama-2-7b-hf"
SHARD = f"{LLAMA}/model-00002-of-00002.safetensors"


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """The library waits between its own tries; no test does."""
    monkeypatch.setattr("time.sleep", lambda _: None)


def llama(*options):
    return built("model=llama2-7b", *BLANK, *options).model


def rows(dataset, *, name=None, split="train"):
    return download_rows(dataset, name=name, split=split, override="dataset.data_dir=FOLDER")


def refused(call, *words, kind=HubError):
    with pytest.raises(kind) as caught:
        call()
    sentence = str(caught.value)
    assert "\n" not in sentence.strip() and all(word in sentence for word in words), sentence
    return sentence


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (None, ["gated", "hf auth login", "HF_TOKEN"]),
        ("stranger", ["gated", "your token has no access", "accept its licence"]),
        ("expired", ["does not accept your token", "HF_TOKEN"]),
    ],
)
@pytest.mark.parametrize("kind", ["model", "data set"])
def test_a_gated_repository(hub, monkeypatch, token, words, kind):
    hub.gated |= {LLAMA, "openai/gsm8k"}
    hub.tokens |= {"good": True, "stranger": False}
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    call = llama().locate if kind == "model" else lambda: rows("openai/gsm8k", name="main")
    refused(call, kind, *words, "Or use a local copy: ")
    assert hub.files() == []
    monkeypatch.setenv("HF_TOKEN", "good")
    call()


@pytest.mark.parametrize("name", ["meta-llama/Llama-9", "nobody/nothing"])
def test_an_unknown_repository(hub, name):
    refused(llama(f"model.id={name}").locate, f"model {name}", "check the id", "model.path=FOLDER")
    refused(lambda: rows(name), f"data set {name}", "check the id", "dataset.data_dir=FOLDER")


@pytest.mark.parametrize("revision", ["v9", "refs/pr/77", "0123456789012345678901234567890123456789"])
def test_an_unknown_revision_is_named(hub, revision):
    refused(llama(f"model.revision='{revision}'").locate, LLAMA, revision, "model.revision")


@pytest.mark.parametrize(("status", "words"), [(429, "too many requests"), (503, "service unavailable")])
def test_a_busy_hub_is_asked_again_and_then_named(hub, status, words):
    hub.answers["Llama-2-7b|gsm8k"] = status
    refused(llama().locate, str(status), words, "after 3 tries")
    asked = [entry for entry in hub.log if entry.path.startswith(f"/api/models/{LLAMA}")]
    assert len(asked) == 3
    refused(lambda: rows("openai/gsm8k", name="main"), str(status), words)


def test_a_hub_that_was_busy_once_is_no_fault(hub, monkeypatch):
    hub.answers["Llama-2-7b"] = 503
    monkeypatch.setattr("spectral_ft.hub.time.sleep", lambda _: hub.answers.clear())
    assert llama().locate().has_weights


def test_a_connection_that_breaks_once_goes_on_where_it_was(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.cuts["model-00002-of-00002.safetensors"] = 1
    llama().locate().check_whole()
    ranges = [entry.status for entry in hub.log if "model-00002" in entry.path and entry.method == "GET"]
    assert ranges == [200, 206]


def test_after_a_cut_the_second_call_fetches_what_is_missing(hub):
    hub.cuts["model-00002-of-00002.safetensors"] = 99
    refused(llama().locate, LLAMA, "connection", "broke", "same command")
    assert f"{LLAMA}/model-00001-of-00002.safetensors" in hub.files()
    hub.behave()
    llama().locate().check_whole()
    assert hub.files() == [SHARD]
    assert [entry.path for entry in hub.log if entry.path.endswith((".json", ".model", ".txt"))] == []


def test_after_a_cut_a_data_set_is_fetched_again(hub):
    hub.cuts["train-00000"] = 99
    refused(lambda: rows("lmms-lab/Math10K"), "lmms-lab/Math10K", "dataset.data_dir=FOLDER")
    hub.behave()
    assert len(rows("lmms-lab/Math10K")) == 180


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rows("faulty/script"), ["script.py", "no program of the hub is run"]),
        (lambda: rows("openai/gsm8k", name="mian"), ["'mian'", "main", "socratic", "dataset.hub.name"]),
        (lambda: rows("openai/gsm8k"), ["main", "socratic", "dataset.hub.name"]),
        (lambda: rows("openai/gsm8k", name="main", split="dev"), ["'dev'", "train", "test", "dataset.hub.split"]),
        (lambda: rows("faulty/empty"), ["no data files"]),
        (lambda: rows("faulty/damaged"), ["cannot be read"]),
    ],
)
def test_a_data_set_that_cannot_be_read(hub, call, words):
    refused(call, *words, "dataset.data_dir=FOLDER")


def test_columns_that_differ_from_the_recipe_are_named(hub):
    experiment = built("dataset=math10k", "dataset.hub.id=faulty/columns", "benchmark=none")
    refused(experiment.dataset.check_source, "instruction", "output", "prompt", "reply", kind=DataError)


@pytest.mark.parametrize(
    ("name", "words", "kind"),
    [
        ("faulty/gguf-only", ["model.safetensors", "model.Q4_K_M.gguf"], CheckpointError),
        ("faulty/lacks-a-shard", ["model-00002-of-00002.safetensors", "model.revision"], CheckpointError),
        ("faulty/no-config", ["config.json", "tokenizer.json"], HubError),
    ],
)
def test_a_model_that_cannot_be_read(hub, name, words, kind):
    refused(llama(f"model.id={name}").locate, name, *words, kind=kind)
    assert hub.files() == []


def test_a_dead_endpoint(hub, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}"
    import datasets.config

    monkeypatch.setattr(constants, "ENDPOINT", dead)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", dead + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", dead)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    for call in (llama().locate, lambda: rows("openai/gsm8k", name="main")):
        assert "OFFLINE" not in refused(call, "cannot be reached", dead, "HF_ENDPOINT")


@pytest.mark.parametrize("choice", ["gsm8k", "hellaswag"])
def test_a_task_that_the_hub_refuses(hub, tmp_path, choice):
    hub.answers["hellaswag|gsm8k"] = 503
    (task,) = source_tasks(built("model=llama2-7b", f"benchmark={choice}"))
    refused(lambda: harness_items(task.prepare(None, tmp_path)), choice, "503", "benchmark.data_dir=FOLDER")


def go_offline(monkeypatch):
    import datasets.config

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def test_offline_only_what_is_there(hub, monkeypatch):
    description = llama().locate(weights=False).folder
    whole = built("model=gpt2", *BLANK).model.locate()
    fetched = rows("openai/gsm8k", name="main")
    hub.log.clear()
    go_offline(monkeypatch)
    assert llama().locate(weights=False).folder == description
    assert built("model=gpt2", *BLANK).model.locate() == whole
    assert rows("openai/gsm8k", name="main") == fetched
    refused(llama().locate, LLAMA, "only partly", "HF_HUB_OFFLINE is set")
    refused(built("model=llama3-8b", *BLANK).model.locate, "not in the local cache", "HF_HUB_OFFLINE is set")
    refused(lambda: rows("google/boolq"), "not in the local cache", "HF_HUB_OFFLINE is set")
    refused(lambda: rows("openai/gsm8k", name="socratic"), "not in the local cache", "HF_HUB_OFFLINE is set")
    refused(lambda: rows("openai/gsm8k", name="main", split="dev"), "'dev'", "train")
    assert hub.log == []


def test_a_full_disk_leaves_nothing_that_is_taken_for_whole(hub, monkeypatch):
    real = huggingface_hub.file_download.http_get

    def full(url, temp_file, **options):
        if "model-00002" in url:
            temp_file.write(b"a part of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(url, temp_file, **options)

    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.file_download, "http_get", full)
        with pytest.raises(OSError, match="No space left") as caught:
            llama().locate()
        assert caught.value.errno == errno.ENOSPC  # which the commands explain
    left = [path for path in Path(constants.HF_HUB_CACHE).rglob("model-00002*")]
    assert left == []
    with monkeypatch.context() as patch:
        go_offline(patch)
        refused(llama().locate, "only partly")
    llama().locate().check_whole()


@pytest.mark.parametrize("fault", [ValueError("no template"), RuntimeError("no kernel"), FileNotFoundError("x.yaml")])
@pytest.mark.parametrize("offline", [False, True])
def test_what_is_not_about_the_hub_stays_as_it_is(hub, monkeypatch, fault, offline):
    def call():
        raise fault

    if offline:
        go_offline(monkeypatch)
    with pytest.raises(type(fault)) as caught:
        ask_hub(call, "benchmark x", override="benchmark.data_dir=FOLDER")
    assert caught.value is fault


def test_a_cache_that_cannot_be_written(hub, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/cache")

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", denied)
    refused(llama().locate, "/cache", "HF_HOME")


def test_a_cache_that_another_library_filled_is_enough(hub, monkeypatch):
    folder = built("model=gpt2", *BLANK).model.locate().folder
    shutil.rmtree(folder.parents[1] / "trees")
    go_offline(monkeypatch)
    assert built("model=gpt2", *BLANK).model.locate().folder == folder


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("meta-llama/Llama-2-7b-hf", "model=hf model.id=meta-llama/Llama-2-7b-hf"),
        ("Qwen/Qwen3-8B", "model=hf model.id=Qwen/Qwen3-8B"),
        ("./my/model", "model=hf model.path=./my/model"),
    ],
)
def test_an_id_given_as_a_choice(command, choice, words):
    called = command(f"model={choice}")
    assert called.code == 1 and words in called.err and "Traceback" not in called.err


def test_a_command_says_it_once_and_fetches_nothing_large_before_all_checks(command, hub):
    hub.answers["super_glue"] = 503
    called = command("method=sgm", "model=llama2-7b")
    errors = [line for line in called.err.splitlines() if line.startswith("error: ")]
    assert called.code == 1 and "Traceback" not in called.err
    assert len(errors) == 1 and "boolq" in errors[0] and "503" in errors[0]
    hub.behave()
    called = command("method=sgm", "model=llama2-7b", "probe.batches=500")
    assert called.code == 1 and "probe.batches=500" in called.err
    assert not [name for name in hub.files() if name.startswith(LLAMA)]


def test_a_plan_by_shape_fetches_no_weights(hub, tmp_path, monkeypatch):
    from spectral_ft import plan

    monkeypatch.chdir(tmp_path)
    options = ("model=llama-7b", "method=lora", "figures=false", "hydra.run.dir=plan")
    assert call_entry(plan.main, *options) == 0
    assert (tmp_path / "plan" / "plan.json").exists() and hub.files() == []
