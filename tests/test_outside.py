"""What comes from elsewhere is data: a record runs no code, a file is what it says or is refused."""

import io
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from spectral_ft import api, export, report, storage
from spectral_ft.compose import composed, plain, recorded_experiment
from spectral_ft.data.files import find_file
from spectral_ft.errors import CheckpointError, ConfigError, DataError, RunError
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.models.tensors import safetensors_contents
from spectral_ft.spelling import printable
from spectral_ft.training.checkpoints import Origin, mark_whole
from tests.conftest import EMBEDDED, call_entry


def record(*overrides: str, **changes: Any) -> dict[str, Any]:
    """A resolved configuration as a run writes it, with some values replaced: `model__name` is `model.name`."""
    config = json.loads(json.dumps(plain(composed(["figures=false", *overrides]))))
    for key, value in changes.items():
        *above, last = key.split("__")
        part = config
        for name in above:
            part = part[name]
        part[last] = value
    return config


def calls(target: str, *arguments: str, **more: Any) -> dict[str, Any]:
    return {"_target_": target, "_args_": list(arguments), **more}


MARK = "touched"
FOREIGN: Mapping[str, dict[str, Any]] = {
    "a command as a component": {"training": calls("subprocess.getoutput", f"touch {MARK}")},
    "a command below a component": {"spectrum__columns": {"mine": calls("os.system", f"touch {MARK}")}},
    "a command in a list": {"benchmark__stages": [calls("subprocess.getoutput", f"touch {MARK}")]},
    "a command that is called later": {
        "spectrum__columns": {"mine": {"_target_": "pandas.read_pickle", "_partial_": True}}
    },
    "a command among the arguments": {
        "drift": {
            "_target_": "spectral_ft.spectral.drift_settings.NoDrift",
            "_args_": [calls("os.system", f"touch {MARK}")],
        }
    },
    "another library through one of our modules": {
        "drift": calls("spectral_ft.configuration.Path.touch", MARK),
    },
    "a module of ours that is no component": {"drift": calls("spectral_ft.storage.write_text", MARK, "x")},
    "a component's class method": {"drift": calls("spectral_ft.models.source.ModelSource.__init__")},
    "a look-up": {"spectrum__columns": {"mine": {"_target_": "hydra.utils.get_method", "path": "os.system"}}},
    "a look-up by a nested value": {
        "spectrum__columns": {"mine": {"_target_": "hydra.utils.get_object", "path": calls("os.getcwd")}}
    },
    "a target that is no text": {"drift": {"_target_": ["os.system"]}},
    "a target from the environment": {"drift": {"_target_": "${oc.env:MINE}"}},
    "a target that Hydra would convert": {"drift": {"_target_": "builtins.dict", "_convert_": "none"}},
    "an option of a matched method": {"budget__of": "lora training._target_=os.system"},
    "a component of a matched method": {"budget__of": "lora rank_policy._target_=os.system"},
    "an interpolation in a matched method": {"budget__of": "lora method.name=${oc.env:HOME}"},
    "a search path in a matched method": {"budget__of": "lora hydra.searchpath=[pkg://antigravity]"},
}


@pytest.fixture
def working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", FOREIGN)
def test_a_record_runs_no_code(case: str, working: Path) -> None:
    config = record("budget=match", "budget.of=lora", **FOREIGN[case])
    with pytest.raises(RunError):
        recorded_experiment(config)
    assert not (working / MARK).exists()
    assert "antigravity" not in sys.modules


def test_a_record_of_our_own_builds_whatever_it_is_made_of() -> None:
    for overrides in (
        ["budget=match", "budget.of='dora/snr_top rank_policy.rank=4'"],
        ["rank_policy=random", "rank_policy.of=snr_top"],
        ["model=hf", "model.id=a/b", "benchmark=commonsense", "dataset=commonsense170k", "general_text=embedded"],
        ["quantization=nf4", "method=adalora", "drift=default", "lr_by=temp_balance"],
    ):
        assert recorded_experiment(record(*overrides)).run_id


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the user's."""
    (tmp_path / "my_metrics.py").write_text("import os\n\ndef third(singular_values, shape):\n    return 3.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_metrics"
    sys.modules.pop("my_metrics", None)


def test_code_of_the_user_is_allowed_by_name(mine: str) -> None:
    config = record(spectrum__columns={"third": {"_target_": f"{mine}.third", "_partial_": True}})
    with pytest.raises(RunError, match=f"own_code={mine}"):
        recorded_experiment(config)
    assert mine not in sys.modules
    built = recorded_experiment(config, own_code=[mine])
    assert built.spectrum.columns["third"](None, None) == 3.0


def test_what_the_user_s_module_imports_is_not_allowed(mine: str, working: Path) -> None:
    for target in (f"{mine}.os.system", f"{mine}s.third", "os.system"):
        config = record(spectrum__columns={"third": calls(target, f"touch {MARK}")})
        with pytest.raises(RunError, match="own_code"):
            recorded_experiment(config, own_code=[mine])
    assert not (working / MARK).exists()


@pytest.mark.parametrize("asked", [{"model__trust_remote_code": True}, {"model__attention": "someone/kernel"}])
def test_code_of_a_checkpoint_is_the_caller_s_to_trust(asked: dict[str, Any]) -> None:
    with pytest.raises(RunError, match="trust_remote_code=true"):
        recorded_experiment(record(**asked))
    assert recorded_experiment(record(**asked), trust_remote_code=True).model.trust_remote_code


def test_text_of_a_record_stays_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "a secret")
    for text in ("${oc.env:MINE}", "\\${oc.env:MINE}", "x ${seed} ${oc.decode:${oc.env:MINE}}", "${"):
        built = recorded_experiment(record(model__name=text, dataset__name=text))
        assert built.model.name == built.dataset.name == text
        assert built.config["model"]["name"] == text


@pytest.mark.parametrize("change", [{"seed": -1}, {"seed": "many"}, {"training": None}, {"lora": 1}])
def test_a_record_that_was_edited_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises((RunError, ConfigError), match=next(iter(change))):
        recorded_experiment(record() | change)


def test_the_commands_that_read_a_record(
    finished: Path, working: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "a secret")
    run = working / "run"
    (run / "adapter").mkdir(parents=True)
    whole = json.loads((finished / "result.json").read_text())
    whole["config"]["spectrum"]["columns"] = {"mine": calls("os.system", f"touch {MARK}")}
    (run / "result.json").write_text(json.dumps(whole))
    assert call_entry(export.main, f"run={run}", "to=axolotl") == 1
    assert "own_code=os" in capsys.readouterr().err
    with pytest.raises(RunError, match="own_code"):
        api.drift(run, own_code="my_metrics")
    assert not (working / MARK).exists()


def header(path: Path, entries: dict[str, Any], *, data: int, length: int | None = None) -> None:
    """A safetensors file, made by hand."""
    text = json.dumps(entries).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data))


def f32(start: int, end: int, *shape: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


HEADERS: Mapping[str, tuple[dict[str, Any], int | None, str]] = {
    "two tensors in one place": ({"a": f32(0, 16, 4), "b": f32(8, 24, 4)}, None, "overlap"),
    "one tensor inside another": ({"a": f32(0, 24, 6), "b": f32(8, 16, 2)}, None, "overlap"),
    "fewer bytes than the shape": ({"a": f32(0, 16, 4, 4)}, None, "a .*16 bytes"),
    "more bytes than the shape": ({"a": f32(0, 24, 4)}, None, "a .*24 bytes"),
    "bytes of another type": ({"a": f32(0, 16, 4, dtype="F64")}, None, "a .*16 bytes"),
    "an end before the start": ({"a": f32(16, 0, 4)}, None, "-16 bytes"),
    "a place before the data": ({"a": f32(-8, 8, 4)}, None, "overlap"),
    "a negative side": ({"a": f32(0, 16, -2, -2)}, None, "shape"),
    "a side that is no number": ({"a": f32(0, 16, "4")}, None, "shape|bytes"),
    "a header beyond the file": ({"a": f32(0, 16, 4)}, 1 << 20, "header claims 1048576"),
    "a header beyond any memory": ({"a": f32(0, 16, 4)}, 1 << 62, "header claims"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_disagrees_with_itself_is_refused(case: str, tmp_path: Path) -> None:
    entries, length, words = HEADERS[case]
    header(tmp_path / "model.safetensors", entries, data=24, length=length)
    with pytest.raises(CheckpointError, match=words):
        safetensors_contents(tmp_path)


def test_headers_nested_beyond_reason_are_refused(tmp_path: Path) -> None:
    text = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CheckpointError, match="header"):
        safetensors_contents(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        safetensors_contents(tmp_path)
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
@pytest.mark.parametrize("named", ["../outside.safetensors", "{absolute}", "sub/../../outside.safetensors", "link"])
def test_weights_outside_of_the_folder_are_refused(named: str, index: str, tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside.safetensors", tmp_path / "checkpoint"
    shutil.copytree(EMBEDDED, folder)
    (folder / "sub").mkdir()
    (folder / "model.safetensors").rename(outside)
    (folder / "link").symlink_to(outside)
    (folder / index).write_text(json.dumps({"weight_map": {"a.weight": named.format(absolute=outside)}}))
    with pytest.raises(CheckpointError, match="out of its folder"):
        _ = Checkpoint(folder).contents


def test_a_snapshot_of_the_hub_s_cache_is_a_checkpoint(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0123"
    shutil.copytree(EMBEDDED, blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    assert Checkpoint(snapshot).contents.tensors.keys() == Checkpoint(EMBEDDED).contents.tensors.keys()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "pytorch_model.bin"])
def test_a_pipe_among_the_files_does_not_hang(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(EMBEDDED, tmp_path / "checkpoint", ignore=shutil.ignore_patterns(name))
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match=name):
        Checkpoint(folder)


def test_a_pipe_or_a_device_as_data_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.jsonl")
    for path in (tmp_path / "train.jsonl", Path("/dev/null")):
        with pytest.raises(DataError, match="pipe or a device"):
            find_file(path, ["train.jsonl"], option="dataset.data_dir")


CONFIGS: Mapping[str, Any] = {
    "num_hidden_layers": 1e9,
    "num_local_experts": 10**8,
    "hidden_size": 10**12,
    "vocab_size": -1,
    "max_position_embeddings": 10**30,
    "text_config": [1],
    "quantization_config": "nf4",
    "model_type": {"a": 1},
    "text_config.num_hidden_layers": 10**7,
    "vision_config.depth.blocks": 10**9,
}


@pytest.mark.parametrize("key", CONFIGS)
def test_a_configuration_that_no_memory_holds_is_refused_at_once(key: str, tmp_path: Path) -> None:
    config: Any = CONFIGS[key]
    for name in reversed(key.split(".")):
        config = {name: config}
    (tmp_path / "config.json").write_text(json.dumps(json.loads((EMBEDDED / "config.json").read_text()) | config))
    began = time.perf_counter()
    with pytest.raises(CheckpointError, match=key.rpartition(".")[2]):
        Checkpoint(tmp_path)
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize("text", ["[]", '"llama"', "3", "null", "{", ""])
def test_a_configuration_that_is_no_object_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"num_attention_heads": 0}, {"hidden_act": "nope"}, {"hidden_size": 1.5}, {"dtype": 7}, {"auto_map": 5}],
    ids=str,
)
def test_a_configuration_that_transformers_cannot_build_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    from spectral_ft.models.blueprints import blueprint

    (tmp_path / "config.json").write_text(json.dumps(json.loads((EMBEDDED / "config.json").read_text()) | change))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        blueprint(tmp_path, trust_remote_code=False)


@pytest.mark.parametrize("config", [{"peft_type": "LORA", "megatron_config": {"a": 1}}, [1], {"peft_type": []}])
def test_an_adapter_s_configuration_imports_nothing(config: Any, tmp_path: Path) -> None:
    from spectral_ft.adapters.opening import form_of

    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    if config == {"peft_type": []}:
        assert form_of(tmp_path) == "[]"
        return
    with pytest.raises(CheckpointError, match="adapter_config"):
        form_of(tmp_path)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_saved_files_have_the_mode_that_the_umask_gives(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with storage.replacing(tmp_path / "folder") as part:
            (part / "below").mkdir(parents=True)
            save_file({"a": np.zeros(2)}, part / "below" / "a.safetensors")
        with storage.replacing(tmp_path / "b.safetensors") as part:
            save_file({"a": np.zeros(2)}, part)
        storage.write_json(tmp_path / "c.json", {})
        checkpoint = tmp_path / "checkpoint-1"
        checkpoint.mkdir()
        save_file({"a": np.zeros(2)}, checkpoint / "trained.safetensors")
        mark_whole(checkpoint, step=1, seconds=1.0, origin=Origin("x", "y", {}, "z", None, 1))
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 5 and {stat.S_IMODE(path.stat().st_mode) for path in files} == {mode}


def test_a_table_for_a_spreadsheet_holds_no_formula() -> None:
    names = ["=1+1", "+A1", "-cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "-1.5", "+3", "-inf", "plain", None]
    frame = pd.DataFrame({"name": names, "=HYPERLINK()": range(10), "value": [-1.5] * 10})
    read = pd.read_csv(io.StringIO(storage.csv_text(frame, index=False)), dtype={"name": str}, keep_default_na=False)
    assert list(read["name"]) == [
        *("'=1+1", "'+A1", "'-cmd|' /C calc'!A0", "'@SUM(A1)", "'\t=1", "-1.5", "+3", "-inf", "plain", "")
    ]
    assert list(read.columns) == ["name", "'=HYPERLINK()", "value"] and list(read["value"]) == [-1.5] * 10
    assert storage.csv_text(pd.DataFrame({"a": [1]}, index=["@x"])).splitlines()[1] == "'@x,1"


ESCAPES = ["\x1b]0;title\x07", "\x1b[2Jgone", "\x9b31m", "over\rwritten", "back\x08", "\u202egnp.exe"]


@pytest.mark.parametrize("text", ESCAPES)
def test_text_of_a_record_moves_no_cursor(text: str, working: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert printable(f"größe\t{text}\n").startswith("größe\t") and not set(printable(text)) & set("\x1b\x07\x9b\r\x08")
    run = working / "run"
    run.mkdir()
    said = json.dumps({"run_id": "x", "error": f"lost {text}", "type": "E", "overrides": [f"arm={text}"]})
    (run / "failure.json").write_text(said)
    assert call_entry(report.main, str(run), "--status") == 0
    shown = capfd.readouterr()
    assert "lost" in shown.out and not [
        sign for sign in shown.out + shown.err if sign in text and not sign.isprintable()
    ]


def test_a_name_that_the_locale_has_not_is_a_sentence(working: Path) -> None:
    assert printable("gr\udcf6\udcdfe") == r"gr\udcf6\udcdfe"
    shutil.copytree(EMBEDDED, working / "größe")
    told = subprocess.run(
        [sys.executable, "-m", "spectral_ft.plan", f'model.path="{working}/größe"', "figures=false"],
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        check=False,
    )
    assert told.returncode == 1 and b"PYTHONUTF8=1" in told.stderr and b"Traceback" not in told.stderr
