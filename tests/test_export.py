"""Exported runs; oracles: the libraries that open the forms, the adapter's own logits, the digests of the files."""

import errno
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
)

from spectral_ft import export, storage
from spectral_ft.adapters import merging
from spectral_ft.adapters.merging import difference, logits
from spectral_ft.adapters.origin import write_origin
from spectral_ft.compose import build_experiment, register
from spectral_ft.configuration import CONF
from spectral_ft.run_folder import mark_started
from spectral_ft.stages.allocation import plan_allocation
from spectral_ft.stages.base import base_model, load_base
from spectral_ft.stages.export import Export
from spectral_ft.stages.reading import what_plans_read
from spectral_ft.types import AllocationPlan
from tests.conftest import EMBEDDED, Called, call_entry, edit_json
from tests.models.tiny_models import model_of

BAR = 1e-5
"""Of the logits' norm: what merging may change in float32."""
Exporter = Callable[..., Called]


@pytest.fixture(autouse=True)
def plain_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a CPU has bf16 units, bitsandbytes would use them and rearrange the codes, which PEFT's DoRA misreads."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)


@pytest.fixture
def exporter(capfd: pytest.CaptureFixture[str]) -> Exporter:
    """Calls the command in this process."""

    def call(*arguments: str) -> Called:
        capfd.readouterr()
        code = call_entry(export.main, *arguments)
        return Called(code, *capfd.readouterr())

    return call


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run: LoRA on the seven matrices that `snr_top` chose."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def made(folder: Path, *overrides: str) -> Path:
    """A run that was cut after its training; what was trained is random, and far from the start."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[f"spectrum.cache={folder.parent / 'spectra'}", *overrides])
    experiment = build_experiment(config)
    checkpoint = experiment.model.locate()
    folder.mkdir(parents=True)
    mark_started(folder, experiment.run_id, experiment.config)
    report, found = what_plans_read(experiment, checkpoint, parts=[experiment.parts], folder=folder)
    base = base_model(experiment, checkpoint, tuple(spectrum.matrix for spectrum in report.matrices))
    plan = plan_allocation(experiment.parts, base, report, found, folder=folder)
    if experiment.method.name != "none":
        torch.manual_seed(0)
        adapted = experiment.method.adapt(load_base(experiment, checkpoint), plan, base=base, steps=10, probe=found)
        for name, parameter in adapted.model.named_parameters():
            if parameter.requires_grad:
                scale = 3 if "lora_E" in name else 0.3 * parameter.data.abs().mean().clamp(min=0.02)
                parameter.data.add_(torch.randn_like(parameter) * scale)
        adapted.save(folder / "adapter")
        write_origin(folder / "adapter", model=experiment.model.label, fingerprint=checkpoint.fingerprint, plan=plan)
    storage.write_json(folder / "train.json", {})
    return folder


def told(folder: Path) -> Export:
    return storage.read_json(folder / "export" / "export.json", Export)


def stock(folder: Path, auto: Any = AutoModelForCausalLM) -> PreTrainedModel:
    return auto.from_pretrained(folder).eval()


def adapter_says(run: Path) -> torch.Tensor:
    """The logits of the saved adapter, opened by stock PEFT on the base."""
    base = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    return logits(PeftModel.from_pretrained(base, run / "adapter").eval())


def test_every_form_opens_in_the_tool_it_is_for(run: Path, exporter: Exporter) -> None:
    called = exporter(f"run={run}", "to=[merged,peft,pth,axolotl]")
    assert called.code == 0, called.err
    out, expected = run / "export", adapter_says(run)

    merged = stock(out / "merged")
    assert difference(expected, logits(merged)).relative < BAR
    assert merged.dtype == torch.float32
    text = "12+34=46"
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (EMBEDDED, out / "merged")]
    assert tokenizers[0](text).input_ids == tokenizers[1](text).input_ids

    state = torch.load(out / "model_state_dict.pth", weights_only=True)
    fresh = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(EMBEDDED), dtype=torch.float32).eval()
    fresh.load_state_dict(state, strict=True)
    assert torch.equal(logits(fresh), logits(merged))

    base = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    assert torch.equal(logits(PeftModel.from_pretrained(base, out / "peft").eval()), expected)

    patterns = yaml.safe_load((out / "unfrozen_parameters.yaml").read_text())["unfrozen_parameters"]
    chosen = {name for name in fresh.state_dict() if any(re.match(pattern, name) for pattern in patterns)}
    plan = storage.read_json(run / "plan.json", AllocationPlan)
    assert chosen == {f"{allocation.name}.weight" for allocation in plan.adapted} and len(chosen) == 7


def test_the_report_and_the_table_say_what_is_there(run: Path, exporter: Exporter) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    called = exporter(f"run={run}", "to=[merged,peft,pth,axolotl]")
    out, report = run / "export", told(run)
    for form in report.forms.values():
        path = out / form.path
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        assert form.bytes == sum(file.stat().st_size for file in files)
        digests = {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        assert form.sha256 == digests
        assert str(path) in called.out and f"{form.bytes / 2**20:.1f}" in called.out
    assert list(report.forms) == ["merged", "peft", "pth", "axolotl"]
    assert report.run_id == json.loads((run / "result.json").read_text())["run_id"]
    assert (report.method, report.quantization, report.model) == ("lora", "none", "tiny")
    assert report.versions["torch"] == torch.__version__
    merged = difference(adapter_says(run), logits(stock(out / "merged")))
    assert report.forms["merged"].difference == merged
    assert f"{merged.largest:.1e}, {merged.relative:.1e}" in called.out
    assert report.forms["merged"].difference_from_packed is None and "packed" not in called.out
    assert report.forms["peft"].difference is None and report.forms["peft"].dtype is None
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert not [path for path in run.rglob("*") if ".part" in path.name]


MERGEABLE = {
    "lora": ["rank_policy=snr_tiers"],
    "lora on int8": ["quantization=int8"],
    "dora on nf4": ["method=dora", "quantization=nf4"],
    "adalora": ["method=adalora"],
    "ia3 on nf4": ["method=ia3", "quantization=nf4"],
    "ln_tuning": ["method=ln_tuning"],
    "spectrum": ["method=spectrum"],
    "full": ["method=full"],
}


@pytest.mark.parametrize("case", MERGEABLE)
def test_a_run_that_was_cut_after_its_training_is_merged(case: str, tmp_path: Path, exporter: Exporter) -> None:
    run = made(tmp_path / "run", *MERGEABLE[case])
    called = exporter(f"run={run}", "to=merged")
    assert called.code == 0, called.err
    written = told(run).forms["merged"]
    merged = stock(run / "export" / "merged")
    assert merged.config.to_dict().get("quantization_config") is None
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.float32}
    assert written.difference is not None and written.difference.relative < BAR
    if (run / "adapter" / "adapter_config.json").exists():
        assert difference(adapter_says(run), logits(merged)).relative < BAR
    else:
        stored = load_file(run / "adapter" / "trained.safetensors")
        assert all(torch.equal(merged.state_dict()[name], tensor) for name, tensor in stored.items())
    base = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    assert difference(logits(base), logits(merged)).relative > 100 * BAR
    packed = written.difference_from_packed
    assert (packed is not None) == (" on " in case)
    if packed is not None:
        assert 0.005 < packed.relative < 1 and "packed" in called.out and told(run).quantization != "none"


def test_the_difference_from_the_packed_base_is_that_of_the_adapter_where_it_was_trained(
    tmp_path: Path, exporter: Exporter
) -> None:
    run = made(tmp_path / "run", "quantization=nf4")
    assert exporter(f"run={run}", "to=pth").code == 0
    experiment = build_experiment(OmegaConf.create(json.loads((run / "run.json").read_text())["config"]))
    trained_on = load_base(experiment, experiment.model.locate())
    state = torch.load(run / "export" / "model_state_dict.pth", weights_only=True)
    merged = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(EMBEDDED), dtype=torch.float32).eval()
    merged.load_state_dict(state)
    assert difference(adapter_says(run), logits(merged)).relative < BAR
    scored = logits(PeftModel.from_pretrained(trained_on, run / "adapter").eval())
    packed = told(run).forms["pth"].difference_from_packed
    assert packed == difference(scored, logits(merged))


def test_a_checkpoint_that_is_packed_itself_is_dequantized(tmp_path: Path, exporter: Exporter) -> None:
    packing = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(
        EMBEDDED, dtype=torch.float32, device_map="cpu", quantization_config=packing
    )
    base.save_pretrained(tmp_path / "packed")
    for file in EMBEDDED.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "packed")
    run = made(tmp_path / "run", f"model.path={tmp_path / 'packed'}", "spectrum.dequantize=true", "rank_policy=snr_top")
    called = exporter(f"run={run}", "to=[merged,axolotl]")
    assert called.code == 0, called.err
    written = told(run).forms["merged"]
    assert written.difference is not None and written.difference.relative < BAR
    assert written.difference_from_packed is not None and written.difference_from_packed.relative < BAR
    assert (run / "export" / "merged" / "model.safetensors").stat().st_size > 7e6


@pytest.mark.parametrize("method", ["lora", "ln_tuning"])
def test_a_classifier_keeps_its_head(method: str, tmp_path: Path, exporter: Exporter) -> None:
    kind = ("general_text=none", "model.kind=classifier", "model.labels=[no,yes]", "dataset=sst2", "benchmark=sst2")
    run = made(tmp_path / "run", f"method={method}", *kind)
    called = exporter(f"run={run}", "to=[merged,peft]")
    assert called.code == 0, called.err
    merged = stock(run / "export" / "merged", AutoModelForSequenceClassification)
    assert merged.config.id2label == {0: "no", 1: "yes"} and merged.config.pad_token_id is not None
    head = load_file(run / "adapter" / "adapter_model.safetensors")["base_model.model.score.weight"]
    assert torch.equal(merged.score.weight, head)
    written = told(run).forms["merged"].difference
    assert written is not None and written.relative < BAR


def test_a_seq2seq_model_is_one_again(tmp_path: Path, exporter: Exporter) -> None:
    folder = tmp_path / "t5"
    model_of("t5", vocab_size=166, decoder_start_token_id=0).save_pretrained(folder)
    for file in EMBEDDED.glob("tokenizer*"):
        shutil.copy(file, folder)
    run = made(
        tmp_path / "run", f"model.path={folder}", "model.kind=seq2seq", "general_text=none", "rank_policy.rank=2"
    )
    called = exporter(f"run={run}", "to=merged")
    assert called.code == 0, called.err
    adapted = PeftModel.from_pretrained(stock(folder, AutoModelForSeq2SeqLM), run / "adapter").eval()
    merged = stock(run / "export" / "merged", AutoModelForSeq2SeqLM)
    assert difference(logits(adapted), logits(merged)).relative < BAR


def test_gpt2_with_its_transposed_matrices(tmp_path: Path, exporter: Exporter) -> None:
    folder = tmp_path / "gpt2"
    model_of("gpt2", vocab_size=166, n_positions=128, bos_token_id=1, eos_token_id=2).save_pretrained(folder)
    for file in EMBEDDED.glob("tokenizer*"):
        shutil.copy(file, folder)
    run = made(tmp_path / "run", f"model.path={folder}", "rank_policy.rank=2")
    called = exporter(f"run={run}", "to=[merged,axolotl]")
    assert called.code == 0, called.err
    adapted = PeftModel.from_pretrained(stock(folder), run / "adapter").eval()
    assert difference(logits(adapted), logits(stock(run / "export" / "merged"))).relative < BAR


@pytest.mark.parametrize(("device", "dtype"), [("cpu", "float32"), ("NVIDIA H100", "bfloat16"), (None, "float32")])
def test_auto_is_the_precision_of_the_machine_that_trained(
    device: str | None, dtype: str, run: Path, exporter: Exporter
) -> None:
    record = json.loads((run / "result.json").read_text())
    record["config"]["model"]["dtype"] = "auto"
    if device is None:
        (run / "result.json").unlink()
        edit_json(run / "run.json", config=record["config"])
    else:
        edit_json(run / "result.json", config=record["config"], machine={"device": device})
    assert exporter(f"run={run}", "to=merged").code == 0
    assert str(stock(run / "export" / "merged").dtype) == f"torch.{dtype}"
    written = told(run).forms["merged"]
    assert written.dtype == dtype and written.difference is not None
    assert written.difference.relative < (BAR if dtype == "float32" else 0.08)


def test_an_adapter_on_a_model_of_the_hub_names_the_hub(
    tmp_path: Path, exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spectral_ft.hub.download_model", lambda *_, **__: EMBEDDED)
    hub = ("model.path=null", "model.id=someone/tiny", "model.revision=v2")
    run = made(tmp_path / "run", *hub)
    assert exporter(f"run={run}", "to=peft").code == 0
    config = json.loads((run / "export" / "peft" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("someone/tiny", "v2")
    base = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    assert torch.equal(logits(PeftModel.from_pretrained(base, run / "export" / "peft").eval()), adapter_says(run))


def test_forms_are_added_and_replaced(run: Path, exporter: Exporter) -> None:
    assert exporter(f"run={run}", "to=peft").code == 0
    called = exporter(f"run={run}", "to=[axolotl,axolotl]")
    assert called.code == 0 and "peft" not in called.out and called.out.count("axolotl") == 1
    assert list(told(run).forms) == ["peft", "axolotl"]
    (run / "export" / "peft" / "stale").write_text("")
    assert exporter(f"run={run}", "to=peft").code == 0
    assert not (run / "export" / "peft" / "stale").exists() and list(told(run).forms) == ["peft", "axolotl"]
    shutil.rmtree(run / "export" / "peft")
    assert exporter(f"run={run}", "to=axolotl").code == 0
    assert list(told(run).forms) == ["axolotl"]


def test_another_place(run: Path, tmp_path: Path, exporter: Exporter) -> None:
    assert exporter(f"run={run}", "to=peft", f"out={tmp_path / 'there' / 'below'}").code == 0
    assert (tmp_path / "there" / "below" / "peft").is_dir() and not (run / "export").exists()


def refused(called: Called, *words: str) -> None:
    """The command failed with a sentence that holds these words, and left no traceback."""
    assert called.code == 1
    assert called.err.count("error: ") == 1 and "Traceback" not in called.err, called.err
    for word in words:
        assert word in called.err, called.err


UNMERGEABLE = {
    "prefix": ("merged", ["method=prefix", "cannot be exported to=merged", "keys and values"]),
    "adapter_s": ("pth", ["method=adapter_s", "cannot be exported to=pth", "tanh"]),
    "adapter_p": ("peft", ["method=adapter_p", "PEFT has no bottleneck adapters"]),
    "full": ("peft", ["method=full", "no adapter", "to=merged or to=pth"]),
    "spectrum": ("peft", ["method=spectrum", "no adapter"]),
    "ia3": ("axolotl", ["method=ia3", "adapts no single matrices"]),
    "none": ("merged", ["method=none", "trained nothing"]),
}


@pytest.mark.parametrize("method", UNMERGEABLE)
def test_what_has_no_such_form_is_refused_with_the_reason(
    method: str, tmp_path: Path, exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    form, words = UNMERGEABLE[method]
    run = made(tmp_path / "run", f"method={method}")
    monkeypatch.setattr("spectral_ft.stages.export.load_base", lambda *_: pytest.fail("a model was loaded"))
    refused(exporter(f"run={run}", f"to={form}"), *words)
    assert not (run / "export").exists()


def test_each_form_that_cannot_be_has_its_sentence_and_none_is_written(tmp_path: Path, exporter: Exporter) -> None:
    run = made(tmp_path / "run", "method=none")
    called = exporter(f"run={run}", "to=[merged,peft,axolotl]")
    refused(called, "to=merged: it trained nothing", "to=peft: it trained nothing", "to=axolotl: its plan")
    assert not (run / "export").exists()


def test_prefix_tuning_goes_to_peft(tmp_path: Path, exporter: Exporter) -> None:
    run = made(tmp_path / "run", "method=prefix")
    assert exporter(f"run={run}", "to=peft").code == 0
    base = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    assert torch.equal(logits(PeftModel.from_pretrained(base, run / "export" / "peft").eval()), adapter_says(run))


@pytest.mark.parametrize("form", ["merged", "peft", "axolotl"])
def test_an_adapter_of_another_base_is_refused(form: str, tmp_path: Path, exporter: Exporter) -> None:
    folder = Path(shutil.copytree(EMBEDDED, tmp_path / "base"))
    run = made(tmp_path / "run", f"model.path={folder}")
    trained_on = json.loads((run / "adapter" / "origin.json").read_text())["fingerprint"]
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refused(exporter(f"run={run}", f"to={form}"), "was trained on tiny", trained_on, "Give the base it belongs to")
    assert not list((run / "export").glob("*"))


def test_a_merge_that_changes_the_function_leaves_nothing(
    run: Path, exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge = merging.merge

    def wrong(adapted: torch.nn.Module) -> PreTrainedModel:
        model = merge(adapted)
        model.get_submodule("model.layers.0.mlp.up_proj").weight.data.mul_(1.05)
        return model

    monkeypatch.setattr(merging, "merge", wrong)
    words = ("merged LlamaForCausalLM is not what the adapter makes of its base", "3.5e-04 at most", "to=peft")
    refused(exporter(f"run={run}", "to=[merged,pth]"), *words)
    assert not (run / "export").exists()


def test_what_is_saved_is_compared_and_not_what_was_in_memory(
    run: Path, exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = PreTrainedModel.save_pretrained

    def wrong(model: PreTrainedModel, folder: Path) -> None:
        save(model, folder)
        tensors = load_file(folder / "model.safetensors")
        tensors["model.layers.1.mlp.up_proj.weight"] *= 1.05
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", wrong)
    refused(exporter(f"run={run}", "to=merged"), "is not what the adapter makes of its base")
    assert not list((run / "export").glob("*"))


def test_a_full_disk_leaves_what_was_there(run: Path, exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    assert exporter(f"run={run}", "to=pth").code == 0
    before = (run / "export" / "model_state_dict.pth").read_bytes()

    def full(_: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 405760 vs 405648")

    monkeypatch.setattr(torch, "save", full)
    refused(exporter(f"run={run}", "to=pth"), "inline_container")
    assert {path.name for path in (run / "export").iterdir()} == {"model_state_dict.pth", "export.json"}
    assert (run / "export" / "model_state_dict.pth").read_bytes() == before


def test_a_fault_of_the_system_is_a_sentence(run: Path, exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "there")

    monkeypatch.setattr(shutil, "copyfile", full)
    refused(exporter(f"run={run}", "to=peft"), "No space left on device", "there")


def test_a_fault_of_ours_keeps_its_traceback(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "logits", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call_entry(export.main, f"run={run}", "to=pth")


OPTIONS = {
    "nothing": ([], ["run= is missing"]),
    "no forms": (["run=x"], ["to= is missing", "merged,peft,pth,axolotl"]),
    "no run": (["to=peft"], ["run= is missing"]),
    "no equals sign": (["run=x", "merged"], ["merged is no option", "run=..."]),
    "a misspelt option": (["runn=x"], ["runn is no option. Did you mean run?", "run, to, out"]),
    "a misspelt form": (["run=x", "to=[peft,mergd]"], ["to=mergd is no form. Did you mean merged?"]),
    "an unknown form": (["run=x", "to=gguf"], ["to=gguf is no form. There is merged, peft, pth, axolotl"]),
    "an empty list": (["run=x", "to=[]"], ["to= is empty"]),
    "an empty value": (["run=", "to=peft"], ["run= is empty"]),
    "an option twice": (["run=x", "run=y", "to=peft"], ["run is given twice, as x and as y"]),
    "a folder that is not there": (["run=no/such", "to=peft"], ["run=no/such does not exist"]),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_a_wrong_option_is_named(case: str, exporter: Exporter) -> None:
    arguments, words = OPTIONS[case]
    refused(exporter(*arguments), *words)


def test_brackets_quotes_of_a_shell_and_names_that_look_like_numbers(tmp_path: Path) -> None:
    options = export.parse(["to=[merged, pth,merged]", "run=123456789012"])
    assert options.to == ("merged", "pth")
    assert options.run == Path("123456789012") and options.out == Path("123456789012/export")
    assert export.parse(["run=12345e678901", "to=peft", "out=a=b"]).out == Path("a=b")
    assert export.parse(["run=~/x", "to=peft"]).run == Path("~/x").expanduser()


def test_a_file_where_the_folder_shall_be(run: Path, tmp_path: Path, exporter: Exporter) -> None:
    (tmp_path / "file").write_text("")
    refused(exporter(f"run={run}", "to=peft", f"out={tmp_path / 'file'}"), "file is a file: give a folder")


def test_a_run_without_its_adapter(run: Path, exporter: Exporter) -> None:
    shutil.rmtree(run / "adapter")
    refused(exporter(f"run={run}", "to=merged"), "adapter holds no adapter")


def test_a_place_that_holds_another_run(run: Path, exporter: Exporter) -> None:
    assert exporter(f"run={run}", "to=axolotl").code == 0
    edit_json(run / "export" / "export.json", run_id="0123456789ab")
    refused(exporter(f"run={run}", "to=peft"), "holds forms of run 0123456789ab", "give another out=DIR")
    assert not (run / "export" / "peft").exists()


def test_help_tells_every_option_and_form(exporter: Exporter) -> None:
    called = exporter("--help")
    assert called.code == 0
    for word in ("run=DIR", "to=FORM", "out=DIR", "merged", "peft", "pth", "axolotl"):
        assert word in called.out


def test_the_console_script_knows_the_command(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spectral_ft import cli

    monkeypatch.setattr(sys, "argv", ["spectral-ft", "export", f"run={run}", "to=axolotl"])
    cli.main()
    assert (run / "export" / "unfrozen_parameters.yaml").exists()


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=sgm"],
        ["method=alors"],
        ["method=eva"],
        ["rank_policy=random"],
        ["rank_policy=inverse", "rank_policy.of=ht_sr"],
        ["budget=match", "budget.of=lora"],
        ["method=spectraqlora", "quantization=nf4"],
    ],
)
def test_a_recorded_configuration_builds_the_same_components(overrides: list[str]) -> None:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=overrides)
    first = build_experiment(config)
    second = build_experiment(OmegaConf.create(json.loads(json.dumps(dict(first.config)))))
    # A benchmark has functions that are equal to nothing but themselves.
    assert replace(second, benchmark=first.benchmark) == first
    assert second.benchmark.tasks.keys() == first.benchmark.tasks.keys()
