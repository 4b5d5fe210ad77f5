"""Whatever a user gets wrong: one sentence with the name and the number, exit code 1, nothing half-written."""

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest
import torch
from safetensors.torch import load_file, save_file

from spectral_ft import storage
from spectral_ft.compose import build_experiment, composed
from spectral_ft.entry import _sentence
from tests.conftest import EMBEDDED, QUICK, Called, edit_json

Command = Callable[..., Called]
SHORT = (*QUICK, "training.max_steps=2", "benchmark.limit=2")


def refused(called: Called, *words: str) -> None:
    """The command failed with one sentence that holds these words, and left no traceback."""
    assert called.code == 1
    sentences = [line for line in called.err.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, called.err
    assert "Traceback" not in called.err
    for word in words:
        assert word in sentences[0], sentences[0]


OPTIONS = {
    "an unknown choice": (["method=spectraqlroa"], ["spectraqlroa", "Did you mean spectraqlora"]),
    "an unknown choice of another group": (["quantization=nf5"], ["nf5", "Did you mean nf4?"]),
    "an unknown benchmark": (["benchmark=arc_eazy"], ["arc_eazy", "Did you mean arc_easy", "There is aqua, arc_"]),
    "a misspelt suite": (["benchmark=comonsense"], ["comonsense", "Did you mean commonsense?"]),
    "an unknown task of a suite": (["~benchmark.tasks.piqua"], ["benchmark.tasks.piqua"]),
    "a misspelt option": (["training.learning_rte=1"], ["training.learning_rte", "training.learning_rate"]),
    "a misspelt group": (["modell=tiny"], ["modell", "Did you mean model"]),
    "an option of another policy": (["rank_policy.top_fraction=0.5"], ["rank_policy.top_fraction", "has rank"]),
    "a new root option": (["+sede=1"], ["sede", "Did you mean seed"]),
    "a new option of a group": (["+training.foo=1"], ["training.foo", "is no option"]),
    "a fraction above one": (["rank_policy=snr_top", "rank_policy.top_fraction=1.5"], ["top_fraction=1.5", "1"]),
    "a fraction of zero": (["rank_policy=snr_top", "rank_policy.top_fraction=0.0"], ["top_fraction=0.0", "0"]),
    "a batch that does not divide": (["training.micro_batch_size=3"], ["batch_size=16", "micro_batch_size=3"]),
    "a model without a source": (["model=hf"], ["model.id", "model.path"]),
    "data without a source": (["dataset=jsonl"], ["jsonl", "dataset.data_dir"]),
    "a protocol that does not exist": (["benchmark.protocol=paper"], ["wordmath", "paper"]),
    "an abbreviation": (["training.lr=1"], ["Did you mean training.learning_rate?"]),
    "another abbreviation": (["training.wd=1"], ["Did you mean training.weight_decay?"]),
    "the last word of an option": (["rank_policy.modules=all"], ["Did you mean rank_policy.target_modules?"]),
    "a seed below zero": (["seed=-1"], ["seed=-1", "0 to 4294967295"]),
    "a seed beyond 32 bits": (["seed=4294967296"], ["seed=4294967296"]),
    "a path with a space": (["model.path=/my", "models/a"], ["models/a", "'model.path=\"/my models/a\"'"]),
    "a path with an umlaut": (["model.path=/tmp/größe"], ["'model.path=\"/tmp/größe\"'"]),
    "a path with an equals sign": (["dataset.data_dir=/a=b"], ["'dataset.data_dir=\"/a=b\"'"]),
    "a path with a bracket": (["model.path=/a[1]"], ["'model.path=\"/a[1]\"'"]),
    "a path with a comma": (["model.path=/a,b"], ["comma", "'model.path=\"/a,b\"'", "[/a,b]"]),
    "a path with a quote": (["model.path=/it's"], ["needs quotes", "it's"]),
    "a mapping that the shell cut": (
        ["benchmark.generation={max_gen_toks:", "4}"],
        ["'benchmark.generation={max_gen_toks: 4}'"],
    ),
    "a mapping that the shell expanded": (
        ["benchmark.generation=max_gen_toks:4", "benchmark.generation=num_beams:1"],
        ["benchmark.generation", "'benchmark.generation={NAME: VALUE, ...}'"],
    ),
    "an option without a value": (["seed"], ["seed is no option", "OPTION=VALUE"]),
    "a value without an option": (["=1"], ["no name"]),
    "a choice that is a number": (["method=-1"], ["method=-1 does not exist", "lora"]),
    "a choice that is nothing": (["model=null"], ["model=null does not exist", "tiny"]),
    "a choice in a folder": (["arm=nope"], ["arm=nope", "arithmetic/lora"]),
    "an option that is taken away": (["~seed"], ["seed is missing", "~seed"]),
    "a run folder that cannot be": (["hydra.run.dir=/dev/null/run"], ["hydra.run.dir=/dev/null/run", "folder"]),
    "a regex for the spectrum that leaves nothing": (["spectrum.include=zzz"], ["zzz", "28"]),
}
WRONG_TYPES = [
    "seed=one",
    "model.trust_remote_code=7",
    "method.dropout=much",
    "rank_policy.rank=8.5",
    "dataset.limit=many",
    "benchmark.batch_size=none",
    "spectrum.workers=all",
    "budget.kind=3",
    "training.max_steps=abc",
    "tracking.mode=maybe",
]


@pytest.mark.parametrize("case", OPTIONS)
def test_a_wrong_option_is_named(case: str, command: Command) -> None:
    overrides, words = OPTIONS[case]
    refused(command(*overrides), *words)
    assert not list(Path("runs").glob("*/*")) or case.startswith("a regex")


@pytest.mark.parametrize("override", WRONG_TYPES)
def test_a_wrong_type_is_named_before_anything_loads(override: str, command: Command) -> None:
    option, _, value = override.partition("=")
    refused(command(override), option, value)
    assert not list(Path("runs").glob("*"))


def test_a_wrong_type_of_a_quantization(command: Command) -> None:
    refused(command("quantization=nf4", "quantization.double_quantization=3"), "double_quantization=3")


def test_a_rank_above_the_smaller_side(command: Command) -> None:
    refused(command("rank_policy.rank=193"), "rank=193", "(192, 512)", "at most 192")


def test_target_modules_that_match_nothing(command: Command) -> None:
    refused(command("rank_policy.target_modules=[q_prj]"), "q_prj", "q_proj", "28")


@pytest.mark.parametrize("unknown", ["q_prj", "c_attn"])
def test_of_several_target_modules_the_unknown_one_is_named(unknown: str, command: Command) -> None:
    called = command(f"rank_policy.target_modules=[q_proj,{unknown},v_proj]")
    refused(called, f": {unknown} matches none", "gate_proj")


@pytest.mark.parametrize("batch", [4, 1])
def test_a_batch_below_the_micro_batch_lowers_it(batch: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "spectral_ft"):
        training = build_experiment(composed([f"training.batch_size={batch}"])).training
    assert (training.micro_batch_size, training.accumulation(1)) == (batch, 1)
    assert f"training.batch_size={batch}" in caplog.text and "training.micro_batch_size=16" in caplog.text


def test_a_search_says_why_its_trial_has_no_value(command: Command) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    called = command(
        "experiment=hpo",
        "hydra.sweeper.n_trials=1",
        "training.batch_size=3",
        "training.micro_batch_size=2",
    )
    assert called.code == 1
    assert "micro_batch_size=2" in called.err and "no multiple" in called.err
    assert "float-castable" not in called.err + called.out and "Traceback" not in called.err


def test_a_micro_batch_that_does_not_divide(command: Command) -> None:
    refused(command("training.batch_size=24"), "batch_size=24", "micro_batch_size=16")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EFBIG, errno.EDQUOT, errno.EIO])
def test_what_the_system_refuses_has_a_sentence(
    code: int, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def refusing(self: Path, target: Path) -> Path:
        if Path(target).name == "plan.json":
            raise OSError(code, os.strerror(code), str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refusing)
    refused(command(f"hydra.run.dir={tmp_path / 'run'}"), "plan.json", os.strerror(code))


@pytest.mark.parametrize("text", ["I/O error: File too large (os error 27)", "[Errno 13] Permission denied: 'x'"])
def test_errors_of_the_system_are_known_in_the_words_of_libraries(text: str) -> None:
    assert _sentence(RuntimeError(text), []) is not None
    assert _sentence(RuntimeError("(os error 9999)"), []) is None


def test_a_missing_model_folder(command: Command) -> None:
    refused(command("model.path=/no/such/folder"), "model.path=/no/such/folder", "does not exist")


def test_a_folder_without_a_checkpoint(command: Command, tmp_path: Path) -> None:
    refused(command(f"model.path={tmp_path}"), "config.json is missing")


def test_a_checkpoint_without_weights(command: Command, checkpoint_copy: Path) -> None:
    (checkpoint_copy / "model.safetensors").unlink()
    refused(command(f"model.path={checkpoint_copy}"), "no .safetensors file")


def test_a_truncated_checkpoint(command: Command, checkpoint_copy: Path) -> None:
    whole = (checkpoint_copy / "model.safetensors").read_bytes()
    (checkpoint_copy / "model.safetensors").write_bytes(whole[:-1000])
    refused(command(f"model.path={checkpoint_copy}"), "is truncated: model.layers.", f"{len(whole) - 1000} are there")


def test_an_unreachable_hub(command: Command) -> None:
    refused(command("model=gpt2"), "openai-community/gpt2", "not in the local cache", "model.path=FOLDER")


def test_a_gated_model(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def gated(*_: object, **__: object) -> None:
        raise GatedRepoError("gated", response=httpx.Response(403, request=httpx.Request("GET", "https://hub.invalid")))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", gated)
    refused(command("model=llama2-7b"), "meta-llama/Llama-2-7b-hf is gated", "accept its licence", "model.path=FOLDER")


def test_an_unreachable_data_hub(command: Command) -> None:
    refused(command("dataset=gsm8k", "dataset.max_length=128"), "openai/gsm8k", "dataset.data_dir=FILE_OR_FOLDER")


def test_an_unreachable_benchmark_hub(command: Command) -> None:
    refused(command("benchmark=gsm8k"), "benchmark gsm8k", "benchmark.data_dir=FOLDER")


def test_a_tokenizer_of_another_model(command: Command, checkpoint_copy: Path) -> None:
    edit_json(checkpoint_copy / "config.json", vocab_size=100)
    refused(command(f"model.path={checkpoint_copy}"), "ids up to 165", "ends at 99")


@pytest.mark.parametrize("policy", ["uniform", "snr_top"])
def test_a_weight_that_is_no_number(policy: str, command: Command, checkpoint_copy: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    tensors = load_file(checkpoint_copy / "model.safetensors")
    tensors[name][0, 0] = float("nan")
    save_file(tensors, checkpoint_copy / "model.safetensors", metadata={"format": "pt"})
    refused(command(f"model.path={checkpoint_copy}", f"rank_policy={policy}", *SHORT), name, "NaN")


DATA = {
    "missing": (None, ["does not exist"]),
    "empty": ("", ["is empty"]),
    "truncated": ('{"instruction": "a", "output": "b"}\n{"instr', ["line 2", "truncated"]),
    "without the columns": ('{"question": "a", "output": "b"}\n', ["row 1", "'instruction'", "question, output"]),
    "not of objects": ("[1]\n", ["row 1", "int"]),
    "too long": (json.dumps({"instruction": "1 " * 70, "output": " 2"}) + "\n", ["training row 0", "max_length=128"]),
    "smaller than a batch": ('{"instruction": "1", "output": " 2"}\n', ["1 training examples", "batch_size=16"]),
    "cut before every completion": (None, ["nothing to learn from"]),
}


@pytest.mark.parametrize("fault", DATA)
def test_a_data_file_that_cannot_be_used(fault: str, command: Command, tmp_path: Path) -> None:
    text, words = DATA[fault]
    path = tmp_path / "data.jsonl"
    options = ["dataset.max_length=128", "dataset.too_long=error"]
    if fault == "cut before every completion":
        text = json.dumps({"instruction": "1 " * 20, "output": " 2"}) + "\n"
        text, options = text * 20, ["dataset.max_length=16"]
    if text is not None:
        path.write_text(text)
    refused(command("dataset=jsonl", f"dataset.data_dir={path}", *options), *words)


def test_a_length_beyond_the_context(command: Command) -> None:
    refused(command("dataset.max_length=129"), "dataset.max_length=129", "128")


def test_a_prompt_beyond_the_context(command: Command, tmp_path: Path) -> None:
    (tmp_path / "test.json").write_text(
        json.dumps([{"instruction": "1 " * 70, "input": "", "output": "", "answer": "1"}])
    )
    options = ("benchmark=gsm8k", f"benchmark.data_dir={tmp_path}", *SHORT)
    refused(command(*options), "gsm8k, item 0", "128")


ASKED = {
    "a misspelt setting of generation": (["benchmark.generation={max_gen_tok: 4}"], ["Did you mean max_gen_toks"]),
    "a chat without a template": (["benchmark.chat_template=true"], ["no chat template"]),
    "examples that nobody has": (["benchmark.num_fewshot=2"], ["wordmath", "benchmark.num_fewshot=0"]),
    "examples without a training file": (["benchmark.protocol=standard"], ["gsm8k with 5 examples", "train.jsonl"]),
}


@pytest.mark.parametrize("case", ASKED)
def test_what_cannot_be_asked_is_told_before_anything_is_trained(case: str, command: Command, tmp_path: Path) -> None:
    overrides, words = ASKED[case]
    if "protocol" in overrides[0]:
        (tmp_path / "test.jsonl").write_text(json.dumps({"question": "1", "answer": "#### 1"}))
        overrides = ["benchmark=gsm8k", f"benchmark.data_dir={tmp_path}", *overrides]
    refused(command(*overrides, *SHORT), *words)
    assert not [path for path in Path("runs").rglob("*") if path.name in {"spectrum.parquet", "plan.json", "adapter"}]


def test_a_benchmark_file_without_answers(command: Command, tmp_path: Path) -> None:
    (tmp_path / "test.json").write_text(json.dumps([{"instruction": "1", "input": "", "output": "", "answer": ""}]))
    refused(command("benchmark=gsm8k", f"benchmark.data_dir={tmp_path}"), "row 1", "answer is empty")


def test_a_benchmark_file_that_cannot_be_used(command: Command, tmp_path: Path) -> None:
    row = {"id": "x7", "question": "1", "answer": "#### 1"}
    options = ("benchmark=gsm8k", f"benchmark.data_dir={tmp_path}")
    (tmp_path / "test.json").write_text(json.dumps([row, row]))
    refused(command(*options), "rows 1 and 2", "id x7")
    (tmp_path / "test.json").write_text(json.dumps([row, {"id": "x8", "question": "1"}]))
    refused(command(*options), "row 2", "no column 'answer'", "id, question")


def test_a_suite_of_which_some_tasks_are_missing(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mawps").mkdir()
    called = command("benchmark=arithmetic", f"benchmark.data_dir={tmp_path}")
    refused(called, "no folder for aqua, gsm8k, svamp (AQuA, gsm8k, SVAMP)", "it has mawps", "~benchmark.tasks.svamp")


def test_a_run_that_scores_nothing(command: Command, tmp_path: Path) -> None:
    assert command("benchmark=none", f"hydra.run.dir={tmp_path}", *SHORT).code == 0
    record = json.loads((tmp_path / "result.json").read_text())
    assert (record["status"], record["scores"]) == ("finished", [])
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "samples").exists()


def test_a_damaged_cache_entry_is_made_again_with_a_warning(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spectral_ft import analyze
    from tests.conftest import call_entry

    cache = tmp_path / "cache"
    one, two = tmp_path / "one", tmp_path / "two"
    arguments = (f"spectrum.cache={cache}", "tracking.mode=disabled")
    assert call_entry(analyze.main, *arguments, f"hydra.run.dir={one}") == 0
    entry = sorted(cache.rglob("*.npz"))[3]
    entry.write_bytes(entry.read_bytes()[:-40])
    called = command(*arguments, *SHORT, "rank_policy=snr_top", f"hydra.run.dir={two}")
    assert called.code == 0
    assert f"cache entry of {entry.stem} is damaged" in called.err
    assert "27 of them from the cache" in called.err
    a, b = (storage.read_report(folder / "spectrum.parquet") for folder in (one, two))
    assert a.frame().equals(b.frame())


def test_two_processes_on_one_run(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    held, done = threading.Event(), threading.Event()

    def other() -> None:
        with filelock.FileLock(folder / ".lock", thread_local=False):
            held.set()
            done.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait(10)
    try:
        refused(command(f"hydra.run.dir={folder}"), "another process", str(folder))
    finally:
        done.set()
        thread.join()


def test_a_full_disk_loses_nothing_that_was_finished(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if Path(target).name == "train.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        refused(command(f"hydra.run.dir={folder}", *SHORT), "the disk is full", "train.json", "same command")
    left = {path.name for path in folder.iterdir()}
    assert {"plan.json", "adapter"} <= left and "train.json" not in left
    assert not [path for path in folder.rglob("*") if path.name.endswith(".part")]
    assert command(f"hydra.run.dir={folder}", *SHORT).code == 0


def test_a_full_disk_is_known_by_the_words_of_torchs_writer() -> None:
    seen = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 405760 vs 405648")
    assert "the disk is full" in str(_sentence(seen, []))
    assert _sentence(RuntimeError("something else"), []) is None


def test_an_edited_record_is_named(command: Command, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert command(f"hydra.run.dir={folder}", *SHORT).code == 0
    (folder / "result.json").unlink()
    edit_json(folder / "plan.json", trainable_parameters="many")
    refused(command(f"hydra.run.dir={folder}", *SHORT), "plan.json", "trainable_parameters")


def test_a_loss_that_is_no_number(command: Command) -> None:
    options = ("training.learning_rate=1.0e+30", "training.max_steps=30", "training.warmup_steps=0", "dataset.limit=64")
    refused(command(*options, "training.logging_steps=1", "benchmark.limit=2"), "training loss is nan", "step")


def test_the_embedded_model_is_what_its_card_says() -> None:
    tensors = load_file(EMBEDDED / "model.safetensors")
    assert all(tensor.dtype == torch.bfloat16 for tensor in tensors.values())
    assert sum(tensor.numel() for tensor in tensors.values()) == 1_803_072
    assert (EMBEDDED / "model.safetensors").stat().st_size < 8_000_000
