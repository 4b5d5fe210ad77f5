"""Oracles: stock PEFT on the result, whole second moments, and the best approximation of the whole product."""

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

from spectral_ft import compress
from spectral_ft.allocation.budget import Budget
from spectral_ft.models.adapter_files import located_adapter
from spectral_ft.probe.moments import Directions, update_moments
from spectral_ft.spectral.updates import decomposed_update
from spectral_ft.stages import compression
from spectral_ft.stages.compression import cut
from spectral_ft.stages.updates import RankRule
from tests.conftest import EMBEDDED, Called, call_entry
from tests.models.adapters import adapted, saved

KINDS = {
    "lora": {},
    "patterns": {"rank_pattern": {r"layers\.1\..*q_proj": 2, "v_proj": 6}, "alpha_pattern": {"v_proj": 3}},
    "rslora": {"use_rslora": True, "r": 9},
    "dora": {"use_dora": True},
    "all": {"targets": "all-linear", "modules_to_save": ["lm_head"]},
}
TOKENS = torch.randint(20, 60, (2, 12), generator=torch.Generator().manual_seed(3))
Compress = Callable[..., Called]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("adapters")
    for kind, options in KINDS.items():
        saved(place / kind, **options)
    return place


@pytest.fixture
def compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Compress:
    monkeypatch.chdir(tmp_path)

    def call(*overrides: str) -> Called:
        capfd.readouterr()
        code = call_entry(compress.main, "tracking.mode=disabled", f"hydra.run.dir={tmp_path / 'run'}", *overrides)
        return Called(code, *capfd.readouterr())

    return call


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    base = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    return PeftModel.from_pretrained(base, folder).eval()(input_ids=TOKENS).logits


def parameters(folder: Path) -> int:
    return sum(
        tensor.numel() for name, tensor in load_file(folder / "adapter_model.safetensors").items() if "lora" in name
    )


def by_budget(value: int) -> RankRule:
    return RankRule(Budget("params", float(value), None), None, False)


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_whole_size_no_logit_changes(folders: Path, tmp_path: Path, kind: str) -> None:
    adapter = located_adapter(folders / kind)
    whole = sum(matrix.parameters for matrix in adapter.matrices)
    found = cut(adapter, by_budget(whole), "none", moments=None, base_parameters=None)
    found.write(tmp_path / "adapter", None)
    assert found.parameters == parameters(tmp_path / "adapter") == whole
    assert (logits(tmp_path / "adapter") - logits(folders / kind)).abs().max() < 1e-5


@pytest.mark.parametrize(("kind", "share"), [*((kind, 0.3) for kind in KINDS), ("patterns", 0.8)])
def test_a_cut_keeps_the_budget_and_is_the_best_of_its_ranks(
    folders: Path, tmp_path: Path, kind: str, share: float
) -> None:
    adapter = located_adapter(folders / kind)
    budget = int(share * sum(matrix.parameters for matrix in adapter.matrices))
    if kind == "dora":  # magnitudes and rank 1 each stay
        budget = max(budget, sum(sum(m.shape) + m.shape[0] for m in adapter.matrices) + 500)
    found = cut(adapter, by_budget(budget), "none", moments=None, base_parameters=None)
    found.write(tmp_path / "adapter", None)
    kept = parameters(tmp_path / "adapter")
    assert found.parameters == kept <= budget < kept + min(sum(m.shape) for m in adapter.matrices)
    assert logits(tmp_path / "adapter").isfinite().all()
    smaller = {matrix.name: matrix for matrix in located_adapter(tmp_path / "adapter").matrices}
    frame = found.frame().set_index("name")
    assert set(smaller) == {name for name, rank in found.ranks.items() if rank}
    for matrix in adapter.matrices[:8]:
        a, b = matrix.factors()
        product, rank = matrix.scaling * b.astype(float) @ a, found.ranks[matrix.name]
        if rank:
            own = smaller[matrix.name]
            new_a, new_b = own.factors()
            u, s, vt = np.linalg.svd(product, full_matrices=False)
            assert own.scaling == pytest.approx(matrix.scaling)
            assert own.scaling * new_b @ new_a == pytest.approx((u[:, :rank] * s[:rank]) @ vt[:rank], abs=1e-6)
            assert frame.loc[matrix.name, "energy_kept"] == pytest.approx(np.sum(s[:rank] ** 2) / np.sum(s**2))


def test_moments_are_projections_of_the_whole_ones() -> None:
    model = adapted(targets=["q_proj", "down_proj"])
    base = model.get_base_model()
    names = ["model.layers.0.self_attn.q_proj", "model.layers.3.mlp.down_proj"]
    modules = {name: base.get_submodule(name) for name in names}
    directions = {}
    for name, layer in modules.items():
        a, b = (getattr(layer, f"lora_{side}")["default"].weight.detach().numpy() for side in "AB")
        update = decomposed_update(a, b, scaling=2.0)
        directions[name] = Directions(update.left, update.right)
    mask = torch.ones_like(TOKENS)
    mask[1, :4] = 0
    labels = TOKENS.masked_fill(mask == 0, -100)
    batches = [
        {"input_ids": TOKENS[i : i + 1], "attention_mask": mask[i : i + 1], "labels": labels[i : i + 1]} for i in (0, 1)
    ]
    found = update_moments(model, batches, directions, modules=modules, gradients=True)
    assert all(parameter.grad is None for parameter in model.parameters())
    # Whole moments, by plain hooks and backward.
    x, g = ({name: [] for name in names} for _ in range(2))
    handles = []
    for name, layer in modules.items():
        handles.append(layer.register_forward_hook(lambda m, i, o, name=name: x[name].append(i[0].detach()[0])))
        handles.append(layer.register_full_backward_hook(lambda m, i, o, name=name: g[name].append(o[0].detach()[0])))
    for batch in batches:
        (model(**batch).loss * (batch["labels"] != -100).sum()).backward()
    for handle in handles:
        handle.remove()
    for name in names:
        inputs = torch.cat([values[batch["attention_mask"][0].bool()] for values, batch in zip(x[name], batches)])  # noqa: B905
        outputs = torch.cat(g[name])
        left, right = directions[name]
        whole = (inputs.double().T @ inputs.double()).numpy()
        assert found[name].inputs == pytest.approx(right.T @ whole @ right, rel=1e-4, abs=1e-6 * np.trace(whole))
        assert found[name].inputs_trace == pytest.approx(np.trace(whole), rel=1e-5)
        whole = (outputs.double().T @ outputs.double()).numpy()
        assert found[name].outputs == pytest.approx(left.T @ whole @ left, rel=1e-4, abs=1e-6 * np.trace(whole))
        assert found[name].outputs_trace == pytest.approx(np.trace(whole), rel=1e-5)
        assert found[name].tokens == 20
    again = update_moments(model, batches, directions, modules=modules, gradients=False)
    assert not any(again[name].outputs.any() for name in names)
    assert again[names[0]].inputs == pytest.approx(found[names[0]].inputs, rel=1e-6)


def test_the_command_scores_both_and_draws_the_curve(
    compressed: Compress, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "SHARES", (0.5,))
    options = ("model=tiny", "benchmark.limit=2", "dataset.limit=60", "probe.batches=2", "curve=true")
    called = compressed(
        f"adapter={folders / 'lora'}", "budget=params", "budget.value=8000", "weighting=fisher", *options
    )
    assert called.code == 0, called.err
    run = tmp_path / "run"
    said = json.loads((run / "compression.json").read_text())
    assert said["parameters"] == parameters(run / "adapter") <= 8000 and said["weighting"] == "fisher"
    assert {"exact_match"} <= set(pd.read_csv(run / "comparison.csv")["metric"])
    points = pd.read_csv(run / "curve.csv")
    assert set(points["weighting"]) == {"none", "inputs", "fisher"}
    assert points["parameters"].max() == said["parameters_before"] and len(set(points["parameters"])) >= 2
    assert (run / "figures" / "curve.png").exists()


def test_without_a_base_it_is_written_and_not_scored(compressed: Compress, folders: Path, tmp_path: Path) -> None:
    called = compressed(f"adapter={folders / 'rslora'}", "energy=0.9")
    assert called.code == 0 and "not scored" in called.err
    assert not (tmp_path / "run" / "original").exists()
    assert (pd.read_csv(tmp_path / "run" / "compression.csv")["energy_kept"] >= 0.9).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["adapter={0}/lora"], "budget=params"),
        (["energy=0.9"], "adapter="),
        (["adapter=[{0}/lora,{0}/dora]", "energy=0.9"], "one adapter"),
        (["adapter={0}/lora", "energy=0.9", "weighting=fisher"], "model="),
        (["adapter={0}/lora", "energy=0.9", "curve=true"], "model="),
        (["adapter={0}/lora", "energy=0.9", "weighting=sum", "model=tiny"], "weighting=sum"),
        (["adapter={0}/lora", "edge=true", "weighting=inputs", "model=tiny"], "edge=true"),
        (["adapter={0}/lora", "budget=params", "budget.value=20"], "budget.value=20"),
        (["adapter={0}/dora", "budget=params", "budget.value=3000"], "budget.value=3000"),
        (["adapter={0}/lora", "energy=0.9", "weighting=fisher", "model=tiny", "dataset.limit=8"], "probe.batches"),
        (
            [
                "adapter={0}/lora",
                "energy=0.9",
                "weighting=fisher",
                "model=tiny",
                "dataset=jsonl",
                "dataset.data_dir=no",
            ],
            "no",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    compressed: Compress, folders: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    called = compressed(*(argument.format(folders) for argument in arguments))
    assert called.code == 1 and "Traceback" not in called.err and words in called.err
    assert not (tmp_path / "run" / "adapter").exists() and not list((tmp_path / "run").rglob("*.part"))


@pytest.mark.parametrize(("how", "word"), [("zero", "is zero"), ("nan", "q_proj")])
def test_an_update_that_cannot_be_cut_is_named(
    compressed: Compress, folders: Path, tmp_path: Path, how: str, word: str
) -> None:
    shutil.copytree(folders / "lora", tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    for name, tensor in weights.items():
        if "q_proj.lora_B" in name or (how == "zero" and "lora_B" in name):
            tensor.fill_(0.0 if how == "zero" else math.nan)
    save_file(weights, file)
    called = compressed(f"adapter={tmp_path / 'adapter'}", "energy=0.9")
    assert called.code == 1 and word in called.err and not (tmp_path / "run" / "adapter").exists()
