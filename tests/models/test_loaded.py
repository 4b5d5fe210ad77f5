"""Oracle: the linear modules of the loaded models themselves, and the matrices of their files."""

import re

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from spectral_ft.bfloat16 import widened
from spectral_ft.errors import CheckpointError
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.models.loaded import loaded_matrices
from spectral_ft.models.packed import PACKINGS
from spectral_ft.stages.spectrum import report_of_matrices
from tests.conftest import REPOSITORY
from tests.models.tiny_models import linear_weights, model_of
from tests.spectral.test_settings import settings


def entries(matrices):
    return {matrix.name: widened(matrices.read(matrix)) for matrix in matrices.matrices}


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "t5", "phi3"])
def test_a_loaded_model_and_its_file_have_the_same_matrices(model_type, tmp_path):
    model = model_of(model_type)
    model.save_pretrained(tmp_path)
    one, other = loaded_matrices(model), Checkpoint(tmp_path).block_matrices
    assert one.matrices == other.matrices
    for name, weight in entries(one).items():
        np.testing.assert_array_equal(weight, entries(other)[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_in_another_precision_is_read_exactly(dtype):
    model = model_of("llama").to(dtype)
    matrices = loaded_matrices(model)
    expected = linear_weights(model)
    for matrix in matrices.matrices:
        read = matrices.read(matrix)
        assert matrices.stored_bytes(matrix) == read.nbytes == expected[matrix.name].nbytes
        np.testing.assert_array_equal(widened(read).astype(np.float64), expected[matrix.name].double().numpy())


def test_blocks_that_share_their_weights_count_once():
    model = model_of("llama")
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    names = [matrix.name for matrix in loaded_matrices(model).matrices]
    assert len(names) == 13
    assert "model.layers.0.mlp.up_proj" in names and "model.layers.1.mlp.up_proj" not in names


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize(("model_type", "targets"), [("llama", ["q_proj", "down_proj"]), ("gpt2", ["c_attn"])])
def test_adapters_are_left_out_and_the_base_keeps_its_names(model_type, targets, dora):
    expected = linear_weights(model_of(model_type))
    options = {"fan_in_fan_out": model_type == "gpt2", "use_dora": dora, "init_lora_weights": False}
    adapted = get_peft_model(model_of(model_type), LoraConfig(r=2, target_modules=targets, **options))
    assert any(".lora_" in name for name, _ in adapted.named_parameters())
    matrices = loaded_matrices(adapted)
    assert {matrix.name: matrix.shape for matrix in matrices.matrices} == {
        name: tuple(weight.shape) for name, weight in expected.items()
    }
    for name, weight in entries(matrices).items():
        np.testing.assert_array_equal(weight, expected[name].numpy())


def test_a_module_that_peft_keeps_a_copy_of_is_still_there():
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["o_proj"])
    matrices = loaded_matrices(get_peft_model(model_of("llama"), config)).matrices
    assert {matrix.name for matrix in matrices} == set(linear_weights(model_of("llama")))


def test_an_error_names_the_class_of_the_model():
    matrices = loaded_matrices(model_of("llama"))
    other = loaded_matrices(model_of("gpt2")).matrices[0]
    with pytest.raises(CheckpointError, match=r"the loaded LlamaForCausalLM has no matrix transformer\.h\.0\.attn"):
        matrices.read(other)


def test_reading_changes_nothing_of_the_model():
    model = model_of("mixtral")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    entries(loaded_matrices(model))
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad
        assert torch.equal(parameter, before[name])


WIDE_GPT2 = {"n_embd": 64}
BITS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "int8": {"load_in_8bit": True},
}


def quantized_gpt2(folder, packing):
    model_of("gpt2", **WIDE_GPT2).save_pretrained(folder / "plain")
    config = BitsAndBytesConfig(**BITS[packing])
    return AutoModelForCausalLM.from_pretrained(folder / "plain", quantization_config=config, device_map="cpu")


@pytest.mark.parametrize("packing", BITS)
def test_a_quantized_gpt2_has_the_shapes_of_the_plain_one(packing, tmp_path):
    model = quantized_gpt2(tmp_path, packing)
    model.save_pretrained(tmp_path / "packed")
    expected = {matrix.name: matrix.shape for matrix in Checkpoint(tmp_path / "plain").matrices}
    for matrices in (
        loaded_matrices(model, dequantize=True),
        Checkpoint(tmp_path / "packed", dequantize=True).block_matrices,
    ):
        assert {matrix.name: matrix.shape for matrix in matrices.matrices} == expected


@pytest.mark.parametrize("packing", BITS)
def test_packing_gpt2_gives_the_spectrum_that_bitsandbytes_gives(packing, tmp_path):
    def values(matrices, packing=None):
        report = report_of_matrices("gpt2", matrices, settings(), fingerprint=None, packing=packing)
        return {spectrum.matrix.name: spectrum.singular_values for spectrum in report.matrices}

    expected = values(loaded_matrices(quantized_gpt2(tmp_path, packing), dequantize=True))
    found = values(Checkpoint(tmp_path / "plain").block_matrices, packing)
    for name, s in expected.items():
        # int8 goes through float16 in bitsandbytes, which is worth less than 5e-4 of the largest
        np.testing.assert_allclose(found[name], s, atol=5e-4 * s[0])


@pytest.mark.parametrize("packing", BITS)
def test_packing_llama_gives_the_spectrum_that_bitsandbytes_gives(packing, tmp_path):
    model_of("llama", hidden_size=64, intermediate_size=128, head_dim=16).save_pretrained(tmp_path)
    config = BitsAndBytesConfig(**BITS[packing])
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config, device_map="cpu")
    expected = report_of_matrices("m", loaded_matrices(model, dequantize=True), settings(), fingerprint=None)
    found = report_of_matrices("m", Checkpoint(tmp_path).block_matrices, settings(), fingerprint=None, packing=packing)
    assert packing in PACKINGS and found.settings["packing"] == packing
    for one, other in zip(found.matrices, expected.matrices, strict=True):
        np.testing.assert_allclose(one.singular_values, other.singular_values, atol=5e-4 * other.singular_values[0])


def test_the_guides_three_lines_analyse_a_model_in_memory(capsys):
    text = (REPOSITORY / "docs" / "guide.md").read_text()
    (example,) = (part for part in re.findall(r"```python\n(.*?)```", text, flags=re.S) if "loaded_matrices" in part)
    exec(example, {"model": model_of("llama", hidden_size=64, intermediate_size=128, head_dim=16)})
    name, value = capsys.readouterr().out.split()
    assert name.startswith("model.layers.0.") and float(value) >= 0
