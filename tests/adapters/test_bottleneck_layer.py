"""A module with a bottleneck; oracles: the formula in numpy, the published start, the base's own logits."""

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from spectral_ft.adapters.bottleneck import NOT_MERGEABLE, add_bottlenecks
from spectral_ft.adapters.bottleneck_layer import Placement
from tests.adapters.bottlenecks import adapted, base, both, sizes_of, trainable
from tests.models.tiny_models import linear_weights, model_of


@both
def test_zero_start_has_loras_down_and_bert_is_as_published(placement: Placement) -> None:
    sizes = {name: 200 for name in sizes_of(placement)}
    for name, parameter in trainable(add_bottlenecks(base(), sizes, placement=placement, init="zero")).items():
        if ".bottleneck_up." in name:
            assert not parameter.any()
        else:  # uniform within 1 / sqrt(d_in)
            reach = parameter.shape[1] ** -0.5
            assert 0.999 * reach < parameter.abs().max() <= reach
            assert parameter.std().item() == pytest.approx(reach / 3**0.5, rel=0.02)
    for parameter in trainable(add_bottlenecks(base(), sizes, placement=placement, init="bert")).values():
        assert parameter.std().item() == pytest.approx(0.02, rel=0.02) and abs(parameter.mean()) < 5e-4


@both
@pytest.mark.parametrize(
    ("model_type", "name"), [("llama", "model.layers.1.mlp.down_proj"), ("gpt2", "transformer.h.1.mlp.c_proj")]
)
def test_the_formula(placement: Placement, model_type: str, name: str) -> None:
    model = model_of(model_type)
    w = linear_weights(model)[name].double().numpy()
    b = np.zeros(len(w))
    if model_type == "gpt2":
        torch.nn.init.normal_(model.get_submodule(name).bias)
        b = model.get_submodule(name).bias.detach().double().numpy()
    site = add_bottlenecks(model, {name: 6}, placement=placement, init="bert").get_submodule(name)
    d, u = (torch.nn.init.normal_(part.weight.data) for part in (site.bottleneck_down, site.bottleneck_up))
    x = torch.randn(3, 4, w.shape[1])
    d, u, z = d.double().numpy(), u.double().numpy(), x.double().numpy()
    update = np.tanh(z @ d.T) @ u.T
    expected = (z + update) @ w.T + b if placement == "series" else z @ w.T + b + update
    np.testing.assert_allclose(site(x).detach().numpy(), expected, rtol=1e-4, atol=1e-4)


@both
def test_no_matrix_has_its_effect(placement: Placement) -> None:
    site = adapted(placement).get_submodule("model.layers.0.mlp.up_proj")
    x = torch.randn(8, 192, generator=torch.Generator().manual_seed(0))
    assert (site(2 * x) - 2 * site(x)).abs().max() > 0.1
    assert "cannot be merged" in NOT_MERGEABLE and "tanh" in NOT_MERGEABLE


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_site_tells_the_dtype_of_its_base(placement: Placement, dtype: torch.dtype) -> None:
    def logits(model: PreTrainedModel) -> torch.Tensor:
        return model(torch.arange(4)[None], decoder_input_ids=torch.arange(4)[None]).logits

    plain = model_of("t5").requires_grad_(False).eval().bfloat16()
    sizes = {name: 3 for name in linear_weights(plain) if name.endswith(".wo")}
    for name in sizes:  # T5 turns its hidden states to the dtype of `wo.weight`, which may be kept in float32
        plain.get_submodule(name).to(dtype)
    before = logits(plain)
    assert torch.equal(logits(add_bottlenecks(plain, sizes, placement=placement, init="zero")), before)
