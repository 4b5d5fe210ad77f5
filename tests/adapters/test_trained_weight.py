"""What an adapted matrix has become; oracle: PEFT's own merged weight."""

import numpy as np
import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    get_peft_model,
)

from spectral_ft.adapters.trained_weight import trained_matrices, trained_weight
from spectral_ft.errors import PlanError
from tests.methods.small_bases import frozen

NAMES = {"llama": "model.layers.0.mlp.up_proj", "gpt2": "transformer.h.0.mlp.c_fc"}


@pytest.mark.parametrize("model_type", NAMES)
@pytest.mark.parametrize("switches", [{}, {"use_rslora": True}, {"use_dora": True}], ids=str)
def test_it_is_what_peft_merges(model_type: str, switches: dict[str, bool]) -> None:
    name, base = NAMES[model_type], frozen(model_type)
    turned = model_type == "gpt2"  # stored (d_in, d_out)
    weight = base.get_submodule(name).weight.detach().double().numpy()
    model = get_peft_model(base, LoraConfig(r=3, lora_alpha=5, target_modules=[name], **switches))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(0.1 * torch.randn_like(parameter))
    found = trained_weight(model, name, weight.T if turned else weight)
    merged = model.merge_and_unload().get_submodule(name).weight.detach().double().numpy()
    np.testing.assert_allclose(found, merged.T if turned else merged, atol=1e-5)


@pytest.mark.parametrize("model_type", NAMES)
@pytest.mark.parametrize("method", ["adalora", "ia3", "ia3 inside"])
def test_so_it_is_for_other_methods_of_peft(model_type: str, method: str) -> None:
    name, base = NAMES[model_type], frozen(model_type)
    turned = model_type == "gpt2"
    weight = base.get_submodule(name).weight.detach().double().numpy()
    config = {
        "adalora": lambda: AdaLoraConfig(init_r=4, target_r=2, lora_alpha=5, total_step=10, target_modules=[name]),
        "ia3": lambda: IA3Config(target_modules=[name], feedforward_modules=[]),
        "ia3 inside": lambda: IA3Config(target_modules=[name], feedforward_modules=[name]),
    }[method]()
    model = get_peft_model(base, config)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(torch.randn_like(parameter))
    assert trained_matrices(model) == (name,)
    found = trained_weight(model, name, weight.T if turned else weight)
    merged = model.merge_and_unload().get_submodule(name).weight.detach().double().numpy()
    assert np.abs(merged - weight).max() > 0.01
    np.testing.assert_allclose(found, merged.T if turned else merged, atol=1e-5)


@pytest.mark.parametrize("config", [LNTuningConfig(), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)])
def test_methods_that_leave_weights_alone_change_no_matrix(config: PeftConfig) -> None:
    assert trained_matrices(get_peft_model(frozen("llama"), config)) == ()


def test_a_matrix_without_an_adapter_is_refused() -> None:
    model = get_peft_model(frozen("llama"), LoraConfig(r=2, target_modules=[NAMES["llama"]]))
    with pytest.raises(PlanError, match=r"layers.0.mlp.gate_proj has no LoRA adapter"):
        trained_weight(model, "model.layers.0.mlp.gate_proj", np.zeros((2, 2)))
