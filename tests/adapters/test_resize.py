"""Re-allocation; oracles: the function before, numpy's SVD, stock PEFT."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from spectral_ft.adapters.lora_layer import update_of
from spectral_ft.adapters.resize import resize
from spectral_ft.errors import PlanError
from spectral_ft.models.quantization import Nf4
from tests.adapters.resizable import (
    BEFORE,
    DOWN,
    NAMES,
    OUT,
    UP,
    Q,
    V,
    adapted,
    allocated,
    assert_trains_exactly_what_is_trainable,
    factors,
    layer_of,
    logits,
    small,
    step,
    tokens,
    trained_by,
)
from tests.conftest import EMBEDDED
from tests.models.tiny_models import model_of
from tests.oracles import law

# ---- the function


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("lora_alpha", [8.0, 3.0])
def test_growing_changes_no_logit(dtype: torch.dtype, tolerance: float, lora_alpha: float) -> None:
    model = adapted(small(dtype), BEFORE)
    before = logits(model)
    after = allocated({Q: (9, lora_alpha), V: (5, lora_alpha), UP: (16, lora_alpha)})
    assert resize(model, BEFORE, after, optimizer=None) == [Q, V, UP]
    assert [layer_of(model, name).r["default"] for name in (Q, V, UP)] == [9, 5, 16]
    assert factors(model, UP)[0].shape == (16, 16) and factors(model, UP)[1].shape == (24, 16)
    linear_a, linear_b = layer_of(model, Q).lora_A["default"], layer_of(model, Q).lora_B["default"]
    assert (linear_a.in_features, linear_a.out_features, linear_b.in_features, linear_b.out_features) == (16, 9, 9, 16)
    assert (logits(model) - before).abs().max() < tolerance


def test_new_rows_begin_as_peft_begins_them_and_old_ones_stay() -> None:
    model = adapted(small(), BEFORE)
    a, b = (factor.detach().clone() for factor in factors(model, UP))
    resize(model, BEFORE, allocated({Q: (4, 8.0), V: (4, 8.0), UP: (16, 32.0)}), optimizer=None)
    new_a, new_b = factors(model, UP)
    assert torch.equal(new_a[:4], a) and torch.equal(new_b[:, :4], b)
    assert not new_b[:, 4:].any()
    bound = 1 / np.sqrt(16)  # Kaiming-uniform with a = sqrt 5 over 16 inputs
    assert new_a[4:].abs().max() <= bound
    assert new_a[4:].std().item() == pytest.approx(bound / np.sqrt(3), rel=0.15)


@pytest.mark.parametrize("lora_alpha", [8.0, 2.0, 5.0])
def test_shrinking_is_the_best_approximation(lora_alpha: float) -> None:
    before = allocated({Q: (9, 8.0), DOWN: (9, 8.0)})
    model = adapted(small(torch.float32), before)
    updates = {name: update_of(model, name) for name in (Q, DOWN)}
    resize(model, before, allocated({Q: (2, lora_alpha), DOWN: (3, lora_alpha)}), optimizer=None)
    for name, rank in ((Q, 2), (DOWN, 3)):
        u, s, v = np.linalg.svd(updates[name])
        error = np.linalg.norm(updates[name] - update_of(model, name))
        assert error == pytest.approx(np.sqrt((s[rank:] ** 2).sum()), rel=1e-5)
        np.testing.assert_allclose(update_of(model, name), u[:, :rank] * s[:rank] @ v[:rank], atol=1e-5)
        a, b = factors(model, name)
        assert (a @ a.T - b.T @ b).abs().max() < 1e-4, "the factors are not balanced"


@pytest.mark.parametrize("present", [0, 2])
def test_a_shrunk_adapter_without_full_rank_can_still_learn_in_every_direction(present: int) -> None:
    before, after = allocated({Q: (6, 8.0)}), allocated({Q: (4, 8.0)})
    model = adapted(small(torch.float32), before)
    with torch.no_grad():
        factors(model, Q)[1][:, present:] = 0
    was = update_of(model, Q)
    resize(model, before, after, optimizer=None)
    np.testing.assert_allclose(update_of(model, Q), was, atol=1e-6)
    model(input_ids=tokens(), labels=tokens()).loss.backward()
    gradient = factors(model, Q)[1].grad
    assert gradient is not None and (gradient.abs().amax(0) > 0).all()


def test_another_alpha_at_the_same_rank_keeps_the_function_and_the_parameters() -> None:
    model = adapted(small(), BEFORE)
    before, parameters, a = logits(model), factors(model, Q), factors(model, Q)[0].detach().clone()
    assert resize(model, BEFORE, allocated({Q: (4, 3.0), V: (4, 8.0), UP: (4, 8.0)}), optimizer=None) == [Q]
    assert layer_of(model, Q).scaling["default"] == 0.75 and layer_of(model, Q).lora_alpha["default"] == 3.0
    assert factors(model, Q)[0] is parameters[0] and factors(model, Q)[1] is parameters[1]
    assert torch.equal(factors(model, Q)[0], a)
    assert (logits(model) - before).abs().max() < 1e-12


def test_the_same_plan_changes_nothing() -> None:
    model = adapted(small(), BEFORE)
    optimizer = trained_by(model)
    step(model, optimizer)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state, config = copy.deepcopy(optimizer.state_dict()), model.peft_config["default"].to_dict()
    assert resize(model, BEFORE, BEFORE, optimizer=optimizer) == []
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    assert str(state) == str(optimizer.state_dict()) and config == model.peft_config["default"].to_dict()


@pytest.mark.parametrize("frozen", [(0, 0.0), (4, 8.0, 0.0)], ids=["rank 0", "lr_multiplier 0"])
def test_what_is_frozen_keeps_its_function_and_learns_no_more(frozen: tuple[float, ...]) -> None:
    model = adapted(small(), BEFORE)
    optimizer = trained_by(model)
    step(model, optimizer)
    before, update, old = logits(model), update_of(model, V), factors(model, V)
    after = allocated({Q: (4, 8.0), V: frozen, UP: (4, 8.0)})
    assert resize(model, BEFORE, after, optimizer=optimizer) == [V]
    assert torch.equal(logits(model), before)
    assert factors(model, V)[0] is old[0]
    step(model, optimizer, 2)
    assert factors(model, V)[0].grad is None and factors(model, V)[1].grad is None
    np.testing.assert_array_equal(update_of(model, V), update)
    assert not torch.equal(logits(model), before)
    assert_trains_exactly_what_is_trainable(model, optimizer)
    assert resize(model, after, after, optimizer=optimizer) == []
    assert resize(model, after, allocated({Q: (4, 8.0), UP: (4, 8.0)}), optimizer=optimizer) == []


@pytest.mark.parametrize("rank", [2, 4, 7])
def test_what_is_thawed_learns_again_from_where_it_was(rank: int) -> None:
    model = adapted(small(), BEFORE)
    optimizer = trained_by(model)
    step(model, optimizer)
    frozen = allocated({Q: (4, 8.0), UP: (4, 8.0)})
    resize(model, BEFORE, frozen, optimizer=optimizer)
    update = update_of(model, V)
    thawed = allocated({Q: (4, 8.0), V: (rank, 8.0), UP: (4, 8.0)})
    assert resize(model, frozen, thawed, optimizer=optimizer) == [V]
    if rank >= 4:
        np.testing.assert_allclose(update_of(model, V), update, atol=1e-14)
    assert not any(factor in optimizer.state for factor in factors(model, V)), "its moments are those of long ago"
    assert_trains_exactly_what_is_trainable(model, optimizer)
    at_thaw = update_of(model, V)
    step(model, optimizer)
    assert np.abs(update_of(model, V) - at_thaw).max() > 1e-4


# ---- new adapters


def test_a_newly_adapted_matrix_changes_no_logit_and_learns() -> None:
    model = adapted(small(), BEFORE, lora_dropout=0.5)
    optimizer = trained_by(model)
    frozen = allocated({Q: (4, 8.0), V: (4, 8.0, 0.0), UP: (4, 8.0)})
    resize(model, BEFORE, frozen, optimizer=optimizer)
    before = logits(model)
    after = allocated({Q: (4, 8.0), V: (4, 8.0, 0.0), UP: (4, 8.0), OUT: (3, 5.0), DOWN: (2, 6.0)})
    assert resize(model, frozen, after, optimizer=optimizer) == [OUT, DOWN]
    assert torch.equal(logits(model), before)
    for name, rank, scaling in ((OUT, 3, 5 / 3), (DOWN, 2, 3.0)):
        layer = layer_of(model, name)
        assert isinstance(layer, LoraLayer) and not isinstance(layer.base_layer, LoraLayer)
        assert layer.r["default"] == rank and layer.scaling["default"] == pytest.approx(scaling)
        assert not layer.training and layer.lora_dropout["default"].p == 0.5
        assert factors(model, name)[0].dtype == torch.float64
        assert not layer.base_layer.weight.requires_grad
    assert not any(factor.requires_grad for factor in factors(model, V)), "an injection thawed what was frozen"
    assert {OUT, DOWN} <= set(model.base_model.targeted_module_names)
    assert_trains_exactly_what_is_trainable(model, optimizer)
    step(model, optimizer)
    assert np.abs(update_of(model, DOWN)).max() > 1e-4


def test_an_injected_adapter_trains_with_dropout_where_the_model_does() -> None:
    model = adapted(small(), BEFORE, lora_dropout=0.5).train()
    resize(model, BEFORE, allocated({Q: (4, 8.0), V: (4, 8.0), UP: (4, 8.0), OUT: (3, 5.0)}), optimizer=None)
    assert all(module.training for module in layer_of(model, OUT).modules())


def test_adapters_over_a_half_precision_base_are_float32_as_the_others() -> None:
    model = adapted(small(torch.bfloat16), BEFORE)
    resize(model, BEFORE, allocated({Q: (6, 8.0), V: (4, 8.0), UP: (4, 8.0), OUT: (3, 5.0)}), optimizer=None)
    for name in (Q, V, OUT):
        assert {factor.dtype for factor in factors(model, name)} == {torch.float32}


# ---- what is saved


def test_a_resized_model_opens_in_stock_peft(tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32).requires_grad_(False)
    names = tuple(
        f"model.layers.{block}.{name}"
        for block in range(4)
        for name in (
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
        )
    )
    before = allocated({name: (4, 8.0) for name in names[2:]}, names)  # 22: PEFT shortens the list of names
    model = adapted(base, before)
    optimizer = trained_by(model)
    ranks = {name: (number % 7, 2.0 + number % 3) for number, name in enumerate(names)}
    after = allocated(ranks, names)
    changed = resize(model, before, after, optimizer=optimizer)
    assert {names[1], names[7]} <= set(changed)
    step(model, optimizer, 3)
    model.save_pretrained(tmp_path)
    fresh = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    reopened = PeftModel.from_pretrained(fresh, tmp_path).eval()
    assert torch.equal(logits(reopened), logits(model))
    for name in names:
        layer = layer_of(reopened, name)
        assert isinstance(layer, LoraLayer) == isinstance(layer_of(model, name), LoraLayer), name
        if isinstance(layer, LoraLayer) and ranks[name][0]:
            assert (layer.r["default"], layer.lora_alpha["default"]) == ranks[name]


def test_it_stays_one_peft_model() -> None:
    model = adapted(small(), BEFORE)
    resize(model, BEFORE, allocated({Q: (9, 8.0), OUT: (3, 5.0)}), optimizer=None)
    assert sum(isinstance(module, PeftModel) for module in model.modules()) == 1
    assert all(name.count("base_layer") <= 1 for name, _ in model.named_modules())
    assert (
        torch.equal(logits(copy.deepcopy(model).merge_and_unload()), logits(model))
        or (logits(copy.deepcopy(model).merge_and_unload()) - logits(model)).abs().max() < 1e-12
    )


# ---- other forms of the base and of the scaling


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    model = adapted(small(), BEFORE, use_rslora=True)
    before = logits(model)
    after = allocated({Q: (9, 8.0), V: (4, 5.0), UP: (5, 8.0), OUT: (4, 3.0)})
    resize(model, BEFORE, after, optimizer=None)
    found = [layer_of(model, name).scaling["default"] for name in (Q, V, UP, OUT)]
    assert found == pytest.approx([8 / 3, 5 / 2, 8 / np.sqrt(5), 3 / 2])
    assert (logits(model) - before).abs().max() < 1e-12


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_gpt2_whose_weights_are_stored_transposed(tmp_path: Path) -> None:
    names = ("transformer.h.1.attn.c_attn", "transformer.h.1.mlp.c_fc", "transformer.h.1.mlp.c_proj")
    before, after = (
        allocated({names[0]: (4, 8.0), names[1]: (4, 8.0)}, names),
        allocated({names[0]: (6, 8.0), names[1]: (2, 8.0), names[2]: (8, 8.0)}, names),
    )
    model = adapted(model_of("gpt2").requires_grad_(False), before)
    update = update_of(model, names[0])
    assert update.shape == (24, 8)
    base, merged = (
        m.get_submodule(names[0]).weight for m in (model_of("gpt2"), copy.deepcopy(model).merge_and_unload())
    )
    np.testing.assert_allclose((merged - base).detach().numpy().T, update, atol=1e-6)
    assert resize(model, before, after, optimizer=None) == list(names)
    np.testing.assert_allclose(update_of(model, names[0]), update, atol=1e-6)
    assert not update_of(model, names[2]).any() and update_of(model, names[2]).shape == (8, 32)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(model_of("gpt2").eval(), tmp_path)), logits(model.eval()))
    with pytest.raises(PlanError, match="above its smaller side: take at most 8"):
        resize(model, after, allocated({names[2]: (9, 8.0)}, names), optimizer=None)


def test_an_nf4_base(tmp_path: Path) -> None:
    options = Nf4(double_quantization=True).load_options(torch.float32)

    def base() -> Any:
        model = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32, quantization_config=options)
        return model.requires_grad_(False)

    before = allocated({Q: (4, 8.0), V: (4, 8.0), UP: (4, 8.0)})
    model = adapted(base(), before).train()  # in evaluation mode, bitsandbytes computes in bf16 on some CPUs
    optimizer = trained_by(model)
    was, update = logits(model), update_of(model, V)
    after = allocated({Q: (9, 8.0), V: (2, 8.0), UP: (4, 2.0), OUT: (3, 5.0)})
    frozen = allocated({Q: (9, 8.0), V: (4, 8.0), UP: (4, 2.0), OUT: (3, 5.0)})
    assert resize(model, before, frozen, optimizer=optimizer) == [Q, OUT, UP]
    assert (logits(model) - was).abs().max() < 1e-5
    resize(model, frozen, after, optimizer=optimizer)
    s = np.linalg.svd(update, compute_uv=False)
    assert np.linalg.norm(update_of(model, V) - update) == pytest.approx(np.sqrt((s[2:] ** 2).sum()), rel=1e-5)
    step(model, optimizer)
    assert np.abs(update_of(model, OUT)).max() > 1e-4
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(base(), tmp_path).train()), logits(model))
    with pytest.raises(PlanError, match="above its smaller side: take at most 192"):
        resize(model, after, allocated({DOWN: (193, 8.0)}), optimizer=optimizer)


ranks = st.dictionaries(
    st.sampled_from(NAMES), st.tuples(st.integers(1, 16), st.sampled_from([1.0, 4.0, 7.5])), min_size=1
)


@law
@given(first=ranks, second=ranks, third=ranks, rslora=st.booleans())
def test_where_nothing_shrinks_the_function_is_kept(
    first: dict[str, Any], second: dict[str, Any], third: dict[str, Any], rslora: bool
) -> None:
    model = adapted(small(), allocated(first), use_rslora=rslora)
    optimizer = trained_by(model)
    step(model, optimizer)
    for was, now in ((first, second), (second, third)):
        updates = {name: update_of(model, name) for name in NAMES if isinstance(layer_of(model, name), LoraLayer)}
        present = {name: layer_of(model, name).r["default"] for name in updates}
        resize(model, allocated(was), allocated(now), optimizer=optimizer)
        assert_trains_exactly_what_is_trainable(model, optimizer)
        for name, update in updates.items():
            rank = now.get(name, (16,))[0]
            s = np.linalg.svd(update, compute_uv=False)
            lost = np.sqrt((s[rank:] ** 2).sum()) if rank < present[name] else 0.0
            assert np.linalg.norm(update_of(model, name) - update) == pytest.approx(lost, abs=1e-10)
        for name in now.keys() - updates.keys():
            assert not update_of(model, name).any()
