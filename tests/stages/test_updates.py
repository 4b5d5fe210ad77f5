"""Oracles: PEFT's own weights, the drift of a run, and what was planted in an adapter."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from spectral_ft import analyze
from spectral_ft.allocation.budget import Budget
from spectral_ft.errors import ConfigError, PlanError
from spectral_ft.stages.updates import RankRule, Sizes, chosen_ranks
from tests.conftest import EMBEDDED, Called, call_entry, edit_json
from tests.models.adapters import saved

NO_BUDGET = Budget("none", None, None)
Analyze = Callable[..., Called]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("adapters")
    saved(place / "one", r=9)
    saved(place / "two", seed=1, use_dora=True)
    saved(place / "mlp", targets=["down_proj"])
    return place


@pytest.fixture
def analysed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Analyze:
    monkeypatch.chdir(tmp_path)

    def call(*overrides: str) -> Called:
        capfd.readouterr()
        code = call_entry(analyze.main, "figures=false", f"hydra.run.dir={tmp_path / 'run'}", *overrides)
        return Called(code, *capfd.readouterr())

    return call


def sentence(called: Called, tmp_path: Path) -> str:
    assert called.code == 1 and "Traceback" not in called.err
    assert not list((tmp_path / "run").rglob("update*"))
    return called.err[called.err.index("error: ") :]


def test_an_adapter_leaves_a_table_a_suggestion_and_figures(analysed: Analyze, folders: Path, tmp_path: Path) -> None:
    called = analysed(f"adapter={folders / 'one'}", "figures=true")
    assert called.code == 0 and "medians over 8 updates" in called.out
    run = tmp_path / "run"
    assert {path.name for path in run.rglob("*") if path.is_file() and path.name != ".lock"} == {
        *("update.parquet", "update.csv", "suggestion.json", "update-map.png", "update-spectra.png")
    }
    frame, weights = pd.read_parquet(run / "update.parquet"), load_file(folders / "one" / "adapter_model.safetensors")
    for row in frame.itertuples():
        a, b = (weights[f"base_model.model.{row.name}.lora_{side}.weight"].double() for side in "AB")
        expected = torch.linalg.svdvals(8 / 9 * b @ a).numpy()[:9]
        assert row.singular_values == pytest.approx(expected, abs=1e-10 * expected[0])
        assert row.parameters == a.numel() + b.numel() and row.type in {"q_proj", "v_proj"}
    assert frame["energy_share"].sum() == pytest.approx(1) and not frame["dead"].any()
    assert "singular_values" not in pd.read_csv(run / "update.csv") and "relative_frobenius" not in frame


def test_the_suggestion_is_a_configuration_of_peft(analysed: Analyze, folders: Path, tmp_path: Path) -> None:
    assert analysed(f"adapter={folders / 'one'}", "budget=params", "budget.value=5000").code == 0
    suggestion = json.loads((tmp_path / "run" / "suggestion.json").read_text())
    said = suggestion.pop("spectral_ft")
    base = AutoModelForCausalLM.from_pretrained(EMBEDDED)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **suggestion))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == said["parameters"] <= 5000
    assert said["parameters"] > 5000 - 2 * 192 * 2 and said["rule"] == "budget=params budget.value=5000"
    scalings = {m.scaling["default"] for m in model.modules() if hasattr(m, "lora_A")}
    assert [*scalings] == pytest.approx([8 / 9] * len(scalings)) and scalings


def test_next_to_its_base_it_has_the_columns_of_the_drift(analysed: Analyze, folders: Path, tmp_path: Path) -> None:
    assert analysed(f"adapter={folders / 'two'}", "model=tiny", r"spectrum.include='layers\.[01]\.'").code == 0
    frame = pd.read_csv(tmp_path / "run" / "update.csv").set_index("name")
    base = load_file(EMBEDDED / "model.safetensors")
    name = "model.layers.1.self_attn.v_proj"
    weights = base[f"{name}.weight"].double()
    factors = load_file(folders / "two" / "adapter_model.safetensors")
    a, b, m = (
        factors[f"base_model.model.{name}.lora_{end}"].double() for end in ("A.weight", "B.weight", "magnitude_vector")
    )
    after = weights + 2 * b @ a
    after *= (m / after.norm(dim=1))[:, None]
    assert frame.loc[name, "relative_frobenius"] == pytest.approx(float((after - weights).norm() / weights.norm()))
    assert frame["relative_frobenius"].notna().sum() == 4 and frame["dora"].all()


def test_two_adapters_are_compared_where_both_adapt(analysed: Analyze, folders: Path, tmp_path: Path) -> None:
    called = analysed(f"adapter=[{folders / 'one'},{folders / 'two'}]")
    assert called.code == 0 and "mean angle" in called.out
    frame = pd.read_csv(tmp_path / "run" / "pair.csv")
    assert len(frame) == 8 and frame["cosine"].abs().max() < 0.2
    for number, rank in (("1", 9), ("2", 4)):
        assert (pd.read_csv(tmp_path / "run" / number / "update.csv")["rank"] == rank).all()


def test_shared_and_dead_updates_are_named(analysed: Analyze, folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "one", tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights, name = load_file(file), "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    weights[name.format(2, "A")] = weights[name.format(0, "A")].clone()
    weights[name.format(3, "B")] *= 0
    save_file(weights, file)
    called = analysed(f"adapter={tmp_path / 'adapter'}")
    frame = pd.read_csv(tmp_path / "run" / "update.csv").set_index("name")
    dead = frame.index[frame["dead"]].tolist()
    assert dead == ["model.layers.3.self_attn.q_proj"]
    assert f"dead updates (no share of the norm): {dead[0]}" in called.out
    assert frame["tied_A"].dropna().to_dict() == {"model.layers.2.self_attn.q_proj": "model.layers.0.self_attn.q_proj"}
    suggestion = json.loads((tmp_path / "run" / "suggestion.json").read_text())
    assert dead[0] not in suggestion["target_modules"] and len(suggestion["target_modules"]) == 7


def sizes(*values: list[float], fixed: int = 0) -> dict[str, Sizes]:
    return {str(place): Sizes(np.array(own), 10, 1.0, fixed) for place, own in enumerate(values)}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (RankRule(NO_BUDGET, 0.9, False), {"0": 1, "1": 2, "2": 0}),
        (RankRule(NO_BUDGET, 1.0, False), {"0": 2, "1": 2, "2": 0}),
        (RankRule(NO_BUDGET, None, True), {"0": 1, "1": 1, "2": 1}),
        (RankRule(Budget("params", 25.0, None), None, False), {"0": 1, "1": 1, "2": 0}),
        (RankRule(Budget("percent", 5.0, None), None, False), {"0": 2, "1": 2, "2": 0}),
    ],
)
def test_ranks_follow_the_rule(rule: RankRule, expected: dict[str, int]) -> None:
    assert chosen_ranks(sizes([5, 0.1], [1, 0.9], [0, 0]), rule, base_parameters=1000) == expected


def test_what_stays_is_paid_first() -> None:
    rule = RankRule(Budget("params", 40.0, None), None, False)
    assert chosen_ranks(sizes([5, 4], [1, 0.9], fixed=5), rule, base_parameters=None) == {"0": 2, "1": 1}
    with pytest.raises(PlanError, match=r"budget.value=29.*10 that stay"):
        chosen_ranks(sizes([5, 4], [1, 0.9], fixed=5), RankRule(Budget("params", 29.0, None), None, False),
                     base_parameters=None)  # fmt: skip


@pytest.mark.parametrize(
    "given",
    [
        (NO_BUDGET, 0.9, True),
        (Budget("params", 9.0, None), 0.9, False),
        (NO_BUDGET, 1.5, False),
        (NO_BUDGET, 0.0, False),
        (NO_BUDGET, math.nan, False),
    ],
)
def test_rules_that_cannot_be_are_refused(given: tuple[Budget, float | None, bool]) -> None:
    with pytest.raises(ConfigError, match="energy="):
        RankRule(*given)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["adapter={0}/one", "budget=params", "budget.value=100"], "budget.value=100"),
        (["adapter={0}/one", "budget=percent", "budget.value=1"], "model="),
        (["adapter={0}/two", "edge=true"], "edge=true"),
        (["adapter={0}/one", "energy=2"], "energy=2"),
        (["adapter=[{0}/one,{0}/one]"], "twice"),
        (["adapter=[{0}/one,{0}/two,{0}/mlp]"], "3 adapters"),
        (["adapter={0}/none"], "none does not exist"),
        (["adapter={0}"], "several adapters"),
    ],
)
def test_bad_input_is_one_sentence(
    analysed: Analyze, folders: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    assert words in sentence(analysed(*(argument.format(folders) for argument in arguments)), tmp_path)


@pytest.mark.parametrize("how", ["lacking", "shape", "fingerprint", "zero", "nan"])
def test_what_does_not_fit_is_named(analysed: Analyze, folders: Path, tmp_path: Path, how: str) -> None:
    shutil.copytree(folders / "one", tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    key = "base_model.model.model.layers.2.self_attn.v_proj.lora_B.weight"
    word = "layers.2.self_attn.v_proj"
    if how == "lacking":
        weights, word = {name.replace("layers.3", "layers.7"): t for name, t in weights.items()}, "layers.7"
    elif how == "shape":
        weights[key] = torch.ones(7, 9)
    elif how == "zero":
        weights, word = {name: t * ("lora_A" in name) for name, t in weights.items()}, "is zero"
    elif how == "nan":
        weights[key][0, 0] = math.nan
    else:
        plan = {"allocations": [], "trainable_parameters": 0, "adapter_parameters": 0, "base_parameters": 1}
        plan["trainable_percent"] = 0.0
        origin = {"model": "another", "fingerprint": "0123", "plan": plan}
        (tmp_path / "adapter" / "origin.json").write_text(json.dumps(origin))
        word = "trained on another"
    save_file(weights, file)
    assert word in sentence(analysed(f"adapter={tmp_path / 'adapter'}", "model=tiny"), tmp_path)


def test_a_pair_without_a_matrix_in_common_is_refused(analysed: Analyze, folders: Path, tmp_path: Path) -> None:
    called = analysed(f"adapter=[{folders / 'one'},{folders / 'mlp'}]")
    assert "no matrix in common" in sentence(called, tmp_path)


def test_a_start_that_moved_the_base_is_said(analysed: Analyze, folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "one", tmp_path / "adapter")
    edit_json(tmp_path / "adapter" / "adapter_config.json", init_lora_weights="olora")
    called = analysed(f"adapter={tmp_path / 'adapter'}")
    assert called.code == 0 and "init_lora_weights=olora" in called.err
