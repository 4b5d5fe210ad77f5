"""Oracle: what stock PEFT makes of the same folders."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from spectral_ft.bfloat16 import widened
from spectral_ft.errors import CheckpointError
from spectral_ft.models.adapter_files import AdapterFiles, located_adapter, write_adapter
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.stages.updates import changed
from tests.conftest import EMBEDDED, edit_json
from tests.models.adapters import adapted, saved

KINDS = {
    "lora": {},
    "patterns": {"rank_pattern": {r"layers\.1\..*q_proj": 2, "v_proj": 6}, "alpha_pattern": {"v_proj": 3}},
    "rslora": {"use_rslora": True, "r": 9},
    "dora": {"use_dora": True},
    "saved whole": {"modules_to_save": ["lm_head"]},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("adapters")
    for kind, options in KINDS.items():
        saved(place / kind, **options)
    return place


def merged(folder: Path) -> dict[str, torch.Tensor]:
    base = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    return PeftModel.from_pretrained(base, folder).merge_and_unload().state_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_the_changed_matrices_are_those_that_peft_merges(folders: Path, kind: str) -> None:
    adapter, base = located_adapter(folders / kind), Checkpoint(EMBEDDED).block_matrices
    expected = merged(folders / kind)
    shapes = {matrix.name: matrix for matrix in base.matrices}
    assert len(adapter.matrices) == 8
    for matrix in adapter.matrices:
        found = changed(matrix, widened(base.read(shapes[matrix.name])).astype(np.float64))
        assert found == pytest.approx(expected[f"{matrix.name}.weight"].double().numpy(), abs=2e-7)


def test_what_is_saved_whole_is_named(folders: Path) -> None:
    assert located_adapter(folders / "saved whole").saved_whole == ["base_model.model.lm_head.weight"]
    assert located_adapter(folders / "lora").saved_whole == []


def renamed(source: Path, folder: Path, form: str) -> Path:
    shutil.copytree(source, folder)
    weights = load_file(folder / "adapter_model.safetensors")
    for old, new in {
        "names": (".weight", ".default.weight"),
        "other name": (".weight", ".sums.weight"),
        "no prefix": ("base_model.model.", ""),
    }.items():
        if form == old:
            weights = {name.replace(*new): tensor for name, tensor in weights.items()}
    (folder / "adapter_model.safetensors").unlink()
    if form == "bin":
        torch.save(weights, folder / "adapter_model.bin")
    else:
        dtype = torch.bfloat16 if form == "bf16" else torch.float32
        save_file({name: t.to(dtype) for name, t in weights.items()}, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("form", ["names", "other name", "no prefix", "bin", "bf16"])
def test_other_forms_of_the_same_adapter_are_read(folders: Path, tmp_path: Path, form: str) -> None:
    other = located_adapter(renamed(folders / "lora", tmp_path / "other", form))
    for one, two in zip(located_adapter(folders / "lora").matrices, other.matrices, strict=True):
        assert one.name == two.name and one.scaling == two.scaling
        for first, second in zip(one.factors(), two.factors(), strict=True):
            assert second == pytest.approx(first, rel=1e-2 if form == "bf16" else 0, abs=1e-12)


def test_an_adapter_with_a_name_is_found_in_its_subfolder(tmp_path: Path) -> None:
    saved(tmp_path / "model", adapter_name="sums")
    assert located_adapter(tmp_path / "model").folder == tmp_path / "model" / "sums"
    shutil.copytree(tmp_path / "model" / "sums", tmp_path / "model" / "words")
    with pytest.raises(CheckpointError, match="sums, words"):
        located_adapter(tmp_path / "model")


def test_embeddings_and_magnitudes_survive_writing(tmp_path: Path) -> None:
    targets = ["q_proj", "embed_tokens"]
    saved(tmp_path / "one", targets=targets)
    one = AdapterFiles(tmp_path / "one")
    write_adapter(
        tmp_path / "two",
        {matrix.name: (matrix.a.read(), matrix.b.read()) for matrix in one.matrices},
        like=one.config,
        scalings={matrix.name: matrix.scaling for matrix in one.matrices},
        embeddings=frozenset(matrix.name for matrix in one.matrices if matrix.embedding),
        beside=one.beside(),
    )
    first, second = merged(tmp_path / "one"), merged(tmp_path / "two")
    assert all(torch.equal(first[name], second[name]) for name in first)


def damaged(folder: Path, how: str) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    name = "base_model.model.model.layers.2.self_attn.q_proj.lora_{}.weight"
    if how == "no factors":
        weights = {"base_model.model.lm_head.weight": torch.ones(2, 2)}
    elif how == "one factor":
        del weights[name.format("B")]
    elif how == "shapes":
        weights[name.format("B")] = torch.ones(3, 5)
    elif how == "two adapters":
        weights |= {key.replace(".weight", ".other.weight"): t for key, t in list(weights.items())}
        weights = {k.replace("lora_A.weight", "lora_A.one.weight"): t.clone() for k, t in weights.items()}
    elif how == "twice":
        weights[name.format("A").replace(".weight", ".default.weight")] = weights[name.format("A")].clone()
    save_file(weights, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no factors", "no LoRA factors"),
        ("one factor", "lora_B of model.layers.2.self_attn.q_proj"),
        ("shapes", "model.layers.2.self_attn.q_proj"),
        ("two adapters", "one, other"),
        ("twice", "model.layers.2.self_attn.q_proj has its factors twice"),
    ],
)
def test_damaged_weights_are_named(folders: Path, tmp_path: Path, how: str, words: str) -> None:
    shutil.copytree(folders / "lora", tmp_path / "adapter")
    damaged(tmp_path / "adapter", how)
    with pytest.raises(CheckpointError, match=words):
        located_adapter(tmp_path / "adapter").matrices  # noqa: B018


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"peft_type": "PREFIX_TUNING"}, "PREFIX_TUNING"),
        ({"target_parameters": ["mlp.experts"]}, "target_parameters"),
        ({"r": 5}, "rank 4 in the weights"),
        ({"lora_alpha": None}, "lora_alpha"),
    ],
)
def test_a_configuration_that_does_not_fit_is_named(folders: Path, tmp_path: Path, change: dict, words: str) -> None:
    shutil.copytree(folders / "lora", tmp_path / "adapter")
    edit_json(tmp_path / "adapter" / "adapter_config.json", **change)
    with pytest.raises(CheckpointError, match=words):
        located_adapter(tmp_path / "adapter").matrices  # noqa: B018


def test_what_is_no_folder_of_an_adapter_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path / "nothing", tmp_path):
        with pytest.raises(CheckpointError, match=str(folder)):
            located_adapter(folder)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        located_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(CheckpointError, match="no adapter weights"):
        located_adapter(tmp_path).matrices  # noqa: B018


@pytest.mark.parametrize(("side", "value"), [("A", float("nan")), ("B", float("inf"))])
def test_a_factor_that_is_not_finite_is_named(folders: Path, tmp_path: Path, side: str, value: float) -> None:
    shutil.copytree(folders / "lora", tmp_path / "adapter")
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    weights[f"base_model.model.model.layers.3.self_attn.v_proj.lora_{side}.weight"][0, 0] = value
    save_file(weights, tmp_path / "adapter" / "adapter_model.safetensors")
    matrix = located_adapter(tmp_path / "adapter").matrices[-1]
    with pytest.raises(CheckpointError, match=f"factor {side} of model.layers.3.self_attn.v_proj"):
        matrix.factors()


def test_a_start_that_moved_the_base_is_known(folders: Path, tmp_path: Path) -> None:
    assert located_adapter(folders / "lora").moved_base is None
    shutil.copytree(folders / "lora", tmp_path / "adapter")
    edit_json(tmp_path / "adapter" / "adapter_config.json", init_lora_weights="pissa_niter_4")
    assert located_adapter(tmp_path / "adapter").moved_base == "pissa_niter_4"


def test_the_fixture_changes_the_model() -> None:
    assert any(parameter.abs().sum() > 0 for name, parameter in adapted().named_parameters() if "lora_B" in name)
