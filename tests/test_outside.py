"""What comes from elsewhere is data: a record runs no code, a file is what it says or is refused."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from spectral_ft import api, export
from spectral_ft.compose import composed, plain, recorded_experiment
from spectral_ft.errors import ConfigError, RunError
from tests.conftest import call_entry


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
