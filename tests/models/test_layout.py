"""Oracle: transformers' own models of a few numbers: which modules they have, and what their files call them."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from spectral_ft.adapters.lora import obstacles
from spectral_ft.errors import CheckpointError
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.models.loaded import loaded_matrices
from tests.models.tiny_models import GROUPED, PLAIN, model_of

EXPERTS = GROUPED | {"num_local_experts": 3, "num_experts_per_tok": 2}
VISION = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "vision_use_head": False,
}
SIZES = {
    "granitemoe": EXPERTS,
    "gpt_oss": EXPERTS | {"intermediate_size": 6},
    "mamba": {"vocab_size": 32, "hidden_size": 8, "state_size": 4, "num_hidden_layers": 2},
    "lfm2": GROUPED | {"layer_types": ["conv", "full_attention"], "block_ff_dim": 16},
    "roberta": PLAIN,
    "bloom": {"vocab_size": 32, "hidden_size": 8, "n_layer": 2, "n_head": 2},
    "xlnet": {"vocab_size": 32, "d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 16},
    "albert": PLAIN | {"embedding_size": 4, "num_hidden_groups": 1},
    "gemma3": {"text_config": GROUPED, "vision_config": VISION, "mm_tokens_per_image": 4},
}
CLASSIFIERS = {"roberta", "albert"}


def random_model(model_type):
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **SIZES[model_type])
    auto = AutoModelForSequenceClassification if model_type in CLASSIFIERS else AutoModelForCausalLM
    return auto.from_config(config).float()


def renamed(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file({change(name): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")


@pytest.mark.parametrize("model_type", SIZES)
def test_files_and_model_have_the_same_matrices(model_type, tmp_path):
    model = random_model(model_type)
    model.save_pretrained(tmp_path)
    stored, loaded = Checkpoint(tmp_path).block_matrices, loaded_matrices(model)
    assert stored.matrices == loaded.matrices
    assert stored.faults == {}
    for matrix in stored.matrices:
        np.testing.assert_array_equal(stored.read(matrix), loaded.read(matrix))
    modules = dict(model.named_modules())
    for matrix in stored.matrices:
        if isinstance(modules.get(matrix.name), torch.nn.Linear):
            assert matrix.shape == tuple(modules[matrix.name].weight.shape)


def test_stacked_experts_are_one_matrix_each_with_their_outputs_first():
    for model_type, shapes in {"granitemoe": {(48, 8), (8, 24)}, "gpt_oss": {(12, 8), (8, 6)}}.items():
        matrices = loaded_matrices(random_model(model_type)).matrices
        experts = [matrix for matrix in matrices if ".experts." in matrix.name]
        assert len(experts) == 2 * 2 * 3
        assert {matrix.shape for matrix in experts} == shapes


@pytest.mark.parametrize("model_type", ["mamba", "lfm2", "xlnet"])
def test_what_no_linear_module_owns_is_no_matrix(model_type):
    model = random_model(model_type)
    names = {matrix.name for matrix in loaded_matrices(model).matrices}
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert names == {name for name in linear if re.search(r"\.\d+\.", name)}
    assert not [name for name in names if "conv1d" in name or name.endswith(("conv.conv", "A_log", "rel_attn.q"))]


@pytest.mark.parametrize(
    ("model_type", "prefix"), [("bloom", "transformer."), ("roberta", "roberta."), ("albert", "albert.")]
)
def test_files_without_the_base_prefix_have_the_names_of_the_modules(model_type, prefix, tmp_path):
    model = random_model(model_type)
    model.save_pretrained(tmp_path)
    renamed(tmp_path, lambda name: name.removeprefix(prefix))
    assert Checkpoint(tmp_path).matrices == loaded_matrices(model).matrices


def test_a_multimodal_file_has_the_names_of_the_modules_and_text_does_not_reach_its_images(tmp_path):
    model = random_model("gemma3")
    model.save_pretrained(tmp_path)
    names = [matrix.name for matrix in Checkpoint(tmp_path).matrices]
    assert set(names) <= {name for name, _ in model.named_modules()}
    assert {name for name in names if name not in obstacles(model, names)} == {
        name for name in names if name.startswith("model.language_model.")
    }


@pytest.mark.parametrize(
    ("suffixes", "word"),
    [
        (["qweight", "qzeros"], "quantized"),
        (["weight_packed", "weight_scale"], "quantized"),
        (["base_layer.weight", "lora_A.default.weight"], "LoRA"),
        ([], "missing"),
    ],
)
def test_a_matrix_that_is_not_there_is_named_with_its_reason(suffixes, word, tmp_path):
    model_of("llama").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    gone = "model.layers.1.self_attn.q_proj"
    codes = tensors.pop(f"{gone}.weight")
    tensors |= {f"{gone}.{suffix}": codes.clone() for suffix in suffixes}
    save_file(tensors, tmp_path / "model.safetensors")
    matrices = Checkpoint(tmp_path).block_matrices
    assert len(matrices.matrices) == 13
    assert list(matrices.faults) == [gone]
    assert gone in matrices.faults[gone] and word in matrices.faults[gone]


def test_a_shape_that_config_json_does_not_build_is_a_fault(tmp_path):
    model_of("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 20}))
    faults = Checkpoint(tmp_path).block_matrices.faults
    assert len(faults) == 6 and "model.layers.0.mlp.up_proj" in faults


def test_a_model_with_code_of_its_own_is_found_by_names_and_said_to_be_not_compared(tmp_path, caplog):
    model_of("llama").save_pretrained(tmp_path)
    own = {"auto_map": {"AutoConfig": "own.Own"}, "model_type": "unheard_of"}
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | own))
    assert len(Checkpoint(tmp_path).matrices) == 14
    assert "not compared" in caplog.text and "trust_remote_code" in caplog.text


def test_a_folder_with_an_adapter_is_refused(tmp_path):
    model_of("llama").save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        Checkpoint(tmp_path)


def test_a_process_without_torch_asks_another_one_and_remembers(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECTRAL_FT_CACHE", str(tmp_path / "cache"))
    model_of("llama").save_pretrained(tmp_path / "model")
    code = (
        "import sys, pathlib, subprocess; from spectral_ft.models.checkpoint import Checkpoint; calls = [];"
        "run = subprocess.run; subprocess.run = lambda *a, **k: calls.append(a) or run(*a, **k);"
        f"found = Checkpoint(pathlib.Path({str(tmp_path / 'model')!r})).matrices;"
        "print(len(found), len(calls), 'torch' in sys.modules)"
    )
    for calls in (1, 0):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["14", str(calls), "False"]
