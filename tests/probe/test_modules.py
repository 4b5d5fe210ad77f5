"""What is watched, and what is left as it was."""

import bitsandbytes
import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from spectral_ft.errors import CheckpointError
from spectral_ft.probe.gradients import probe_gradients
from spectral_ft.probe.inputs import principal_inputs
from spectral_ft.probe.modules import evaluation_mode, linear_modules
from tests.conftest import EMBEDDED
from tests.models.tiny_models import linear_weights, model_of
from tests.probe.small_models import batch_of, linear_names


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "bert", "t5", "falcon"])
def test_every_linear_module_of_a_block_is_found(model_type):
    model = model_of(model_type)
    names = list(linear_weights(model))
    assert list(linear_modules(model, names[::-1])) == names[::-1]
    assert all(module is model.get_submodule(name) for name, module in linear_modules(model, names).items())


def test_modes_are_restored_one_by_one():
    model = model_of("llama").train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(KeyError), evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == before


@pytest.fixture(scope="module")
def four_bit():
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
        bnb_4bit_use_double_quant=True,
    )
    return AutoModelForCausalLM.from_pretrained(
        EMBEDDED, quantization_config=config, dtype=torch.float32, device_map={"": "cpu"}
    ).requires_grad_(False)


def refuse(*_):
    raise AssertionError("laid out anew")


def test_a_four_bit_model_is_not_laid_out_anew(four_bit, monkeypatch):
    monkeypatch.setattr(bitsandbytes.nn.modules, "_convert_weight_packed_for_cpu", refuse)
    names, batch = linear_names(four_bit), batch_of("llama", seed=0, tokens=16)
    codes = {name: four_bit.get_submodule(name).weight.clone() for name in names}
    for name in names:
        monkeypatch.setattr(four_bit.get_submodule(name), "support_avx512bf16_for_cpu", True)
    with pytest.raises(AssertionError, match="laid out anew"):  # what the plain evaluation mode would do on such a CPU
        four_bit.eval()(**batch)
    probe_gradients(four_bit, [batch], names, norms=True, sketch_dim=4, seed=0)
    found = principal_inputs(four_bit, [batch], names, rank=2, rho=1.0, tau=0.0, whiten=False)
    assert all(rows.shape == (2, four_bit.get_submodule(name).in_features) for name, rows in found.items())
    assert all((four_bit.get_submodule(name).weight == code).all() for name, code in codes.items())
    assert not any(module.training for module in four_bit.modules())


def test_a_four_bit_model_that_was_laid_out_anew_is_refused(four_bit, monkeypatch):
    name, batch = "model.layers.2.mlp.up_proj", batch_of("llama", seed=0)
    state = four_bit.get_submodule(name).weight.quant_state
    monkeypatch.setattr(state, "packing_format_for_cpu", True, raising=False)
    with pytest.raises(CheckpointError, match=rf"{name} was laid out anew for inference.*load the model again"):
        probe_gradients(four_bit, [batch], ["model.layers.0.mlp.up_proj"], norms=True, sketch_dim=None, seed=0)
