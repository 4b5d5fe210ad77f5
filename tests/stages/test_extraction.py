"""Oracles: planted low-rank updates, the whole update's decomposition, and stock PEFT on the result."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from spectral_ft import extract
from tests.conftest import EMBEDDED, Called, call_entry, edit_json

Q, DOWN = "model.layers.1.self_attn.q_proj", "model.layers.2.mlp.down_proj"
Extract = Callable[..., Called]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model in float32, so that small updates are not rounded away."""
    folder = Path(shutil.copytree(EMBEDDED, tmp_path_factory.mktemp("base") / "base"))
    weights = {name: tensor.float() for name, tensor in load_file(EMBEDDED / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    edit_json(folder / "config.json", dtype="float32", torch_dtype="float32")
    return folder


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base with updates of rank 3 and 2 in two matrices, and a norm that moved."""
    folder = Path(shutil.copytree(base, tmp_path_factory.mktemp("tuned") / "tuned"))
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name, rank in ((Q, 3), (DOWN, 2)):
        rows, cols = weights[f"{name}.weight"].shape
        factors = torch.randn(rows, rank, generator=generator), torch.randn(rank, cols, generator=generator)
        weights[f"{name}.weight"] += 0.01 * factors[0] @ factors[1]
    weights["model.norm.weight"] *= 1.001
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def extracted(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Extract:
    monkeypatch.chdir(tmp_path)

    def call(*overrides: str) -> Called:
        capfd.readouterr()
        options = ("tracking.mode=disabled", "model=tiny", f"model.path={base}", f"hydra.run.dir={tmp_path / 'run'}")
        code = call_entry(extract.main, *options, *overrides)
        return Called(code, *capfd.readouterr())

    return call


def update(base: Path, tuned: Path, name: str) -> np.ndarray:
    one, other = (load_file(folder / "model.safetensors")[f"{name}.weight"].double() for folder in (base, tuned))
    return (other - one).numpy()


def test_planted_updates_are_found_and_stock_peft_merges_them(
    extracted: Extract, base: Path, tuned: Path, tmp_path: Path
) -> None:
    called = extracted(f"tuned={tuned}", "energy=0.999999")
    assert called.code == 0, called.err
    frame = pd.read_csv(tmp_path / "run" / "extraction.csv").set_index("name")
    assert frame["rank"].to_dict() == {name: {Q: 3, DOWN: 2}.get(name, 0) for name in frame.index}
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, tmp_path / "run" / "adapter").merge_and_unload().state_dict()
    for name in (Q, DOWN):
        expected = load_file(tuned / "model.safetensors")[f"{name}.weight"]
        assert torch.allclose(merged[f"{name}.weight"], expected, atol=1e-6)
    said = json.loads((tmp_path / "run" / "extraction.json").read_text())
    assert list(said["left_out"]) == ["model.norm.weight"]
    assert said["left_out"]["model.norm.weight"] == pytest.approx(1e-3, rel=1e-2)
    assert said["logits"]["adapter"]["relative"] < 0.1 * said["logits"]["base"]["relative"]
    assert "model.norm.weight" in called.err


def test_a_budget_is_kept_and_the_best_components_are_taken(
    extracted: Extract, base: Path, tuned: Path, tmp_path: Path
) -> None:
    budget = 1500
    assert extracted(f"tuned={tuned}", "budget=params", f"budget.value={budget}").code == 0
    weights = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) <= budget
    frame = pd.read_csv(tmp_path / "run" / "extraction.csv").set_index("name")
    for name in (Q, DOWN):
        values = np.linalg.svd(update(base, tuned, name), compute_uv=False)
        rank = int(frame.loc[name, "rank"])
        assert frame.loc[name, "norm_lost"] == pytest.approx(np.linalg.norm(values[rank:]), abs=1e-9)
        if rank:
            key = f"base_model.model.{name}.lora_{{}}.weight"
            product = weights[key.format("B")].double() @ weights[key.format("A")].double()
            assert np.linalg.norm(update(base, tuned, name) - product.numpy()) == pytest.approx(
                np.linalg.norm(values[rank:]), rel=1e-5, abs=1e-6
            )


def test_what_a_run_trained_as_whole_tensors_is_a_pair_with_its_base(
    extracted: Extract, tuned: Path, tmp_path: Path
) -> None:
    weights = load_file(tuned / "model.safetensors")
    run = tmp_path / "trained" / "adapter"
    run.mkdir(parents=True)
    noise = 1e-4 * torch.randn(weights[f"{Q}.weight"].shape, generator=torch.Generator().manual_seed(1))
    save_file({f"{Q}.weight": weights[f"{Q}.weight"] + noise}, run / "trained.safetensors")
    called = extracted(f"tuned={run.parent}", "edge=true")
    assert called.code == 0, called.err
    frame = pd.read_csv(tmp_path / "run" / "extraction.csv").set_index("name")
    assert frame["rank"].to_dict() == {Q: 3}
    said = json.loads((tmp_path / "run" / "extraction.json").read_text())
    assert said["logits"]["adapter"]["relative"] < 0.05 * said["logits"]["base"]["relative"]
    assert said["left_out"] == {}


def damaged(folder: Path, how: str) -> str:
    weights = load_file(folder / "model.safetensors")
    if how == "family":
        edit_json(folder / "config.json", model_type="mistral")
        return "mistral"
    if how == "vocabulary":
        edit_json(folder / "config.json", vocab_size=9999)
        return "9999"
    if how == "tokens":
        file = folder / "tokenizer.json"
        found = json.loads(file.read_text())
        first, second = list(found["model"]["vocab"])[-2:]
        vocabulary = found["model"]["vocab"]
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
        file.write_text(json.dumps(found))
        return "tokenizer.json"
    if how == "shape":
        weights[f"{Q}.weight"] = weights[f"{Q}.weight"][:-1].clone()
    elif how == "lacking":
        del weights[f"{Q}.weight"]
    elif how == "nan":
        weights[f"{Q}.weight"][0, 0] = math.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return Q


@pytest.mark.parametrize("how", ["family", "vocabulary", "tokens", "shape", "lacking", "nan"])
def test_what_is_no_pair_is_named_and_leaves_nothing(extracted: Extract, tuned: Path, tmp_path: Path, how: str) -> None:
    shutil.copytree(tuned, tmp_path / "other")
    word = damaged(tmp_path / "other", how)
    called = extracted(f"tuned={tmp_path / 'other'}", "energy=0.9")
    assert called.code == 1 and "Traceback" not in called.err and word in called.err
    assert not (tmp_path / "run" / "adapter").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["energy=0.9"], "tuned="),
        (["tuned={0}"], "budget=params"),
        (["tuned={1}", "energy=0.9"], "is zero"),
        (["tuned={0}/no", "energy=0.9"], "tuned="),
        (["tuned={0}", "budget=params", "budget.value=10"], "budget.value=10"),
        (["tuned={0}", "budget=percent", "budget.value=1", "energy=0.5"], "energy=0.5"),
    ],
)
def test_options_that_cannot_be_are_named(
    extracted: Extract, base: Path, tuned: Path, arguments: list[str], word: str
) -> None:
    called = extracted(*(argument.format(tuned, base) for argument in arguments))
    assert called.code == 1 and "Traceback" not in called.err and word in called.err
