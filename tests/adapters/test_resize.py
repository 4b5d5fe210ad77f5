"""Re-allocation; oracles: the function before, numpy's SVD, an unresized twin, stock PEFT, a new optimizer."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from spectral_ft.adapters.lora import lora_config
from spectral_ft.adapters.resize import resize, update_of
from spectral_ft.errors import PlanError
from spectral_ft.models.quantization import Nf4
from spectral_ft.types import AllocationPlan, MatrixAllocation
from tests.conftest import EMBEDDED
from tests.models.tiny_models import model_of
from tests.oracles import law

Q, V, OUT, UP, DOWN = (
    f"model.layers.1.{name}"
    for name in ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
)
NAMES = (Q, V, OUT, UP, DOWN)
Allocations = tuple[MatrixAllocation, ...]


def small(dtype: torch.dtype = torch.float64) -> LlamaForCausalLM:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4
    )
    return LlamaForCausalLM(config).to(dtype).requires_grad_(False).eval()


def allocated(given: dict[str, tuple[float, ...]], names: tuple[str, ...] = NAMES) -> Allocations:
    """Module name to rank, lora_alpha and learning-rate multiplier; the rest is frozen."""
    return tuple(
        MatrixAllocation(name, int(given[name][0]), *given[name][1:])
        if name in given
        else MatrixAllocation(name=name, rank=0, lora_alpha=0.0)
        for name in names
    )


def adapted(base: Any, plan: Allocations, **options: Any) -> PeftModel:
    """Adapters with an update that is not zero."""
    model = get_peft_model(base, lora_config(AllocationPlan(plan, 1, 1, 1), **options)).eval()
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


def trained_by(model: PeftModel, **groups: float) -> AdamW:
    """An optimizer whose groups name their multipliers."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not groups:
        return AdamW(parameters, lr=1e-2, weight_decay=0.1)
    return AdamW([
        {"params": [] if number else parameters, "lr": 1e-2 * multiplier, "lr_multiplier": multiplier}
        for number, multiplier in enumerate(groups.values())
    ])


def step(model: PeftModel, optimizer: torch.optim.Optimizer, times: int = 1) -> None:
    for _ in range(times):
        model(input_ids=tokens(), labels=tokens()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def tokens() -> torch.Tensor:
    return torch.randint(4, 32, (3, 7), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(tokens()).logits
    return found


def layer_of(model: PeftModel, name: str) -> Any:
    return model.get_base_model().get_submodule(name)


def factors(model: PeftModel, name: str) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    layer = layer_of(model, name)
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight


def members(optimizer: torch.optim.Optimizer, number: int = 0) -> set[int]:
    return {id(parameter) for parameter in optimizer.param_groups[number]["params"]}


def assert_trains_exactly_what_is_trainable(model: PeftModel, optimizer: torch.optim.Optimizer) -> None:
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert len(held) == len(trainable) and {id(parameter) for parameter in held} == trainable
    assert {id(parameter) for parameter in optimizer.state} <= trainable


BEFORE = allocated({Q: (4, 8.0), V: (4, 8.0), UP: (4, 8.0)})


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


def test_the_update_is_what_merging_adds() -> None:
    model = adapted(small(), BEFORE)
    weight = layer_of(model, UP).base_layer.weight.detach().numpy().copy()
    update = update_of(model, UP)
    assert update.dtype == np.float64 and update.shape == (24, 16)
    merged = model.merge_and_unload().get_submodule(UP).weight.detach().numpy()
    np.testing.assert_allclose(merged - weight, update, atol=1e-14)


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


# ---- the optimizer


def test_the_optimizer_follows_each_case() -> None:
    before = allocated({Q: (4, 8.0), V: (4, 8.0), OUT: (4, 8.0), UP: (4, 8.0), DOWN: (4, 8.0)})
    after = allocated({Q: (6, 12.0), V: (2, 4.0), OUT: (4, 2.0), UP: (4, 8.0)})
    model = adapted(small(), before)
    optimizer = trained_by(model)
    step(model, optimizer, 3)
    states = {name: [dict(optimizer.state[factor]) for factor in factors(model, name)] for name in NAMES}
    resize(model, before, after, optimizer=optimizer)
    found = {name: [optimizer.state.get(factor) for factor in factors(model, name)] for name in NAMES}
    for factor in (0, 1):
        assert found[V][factor] is None and found[DOWN][factor] is None
        for name in (OUT, UP):
            assert found[name][factor].keys() == states[name][factor].keys() == {"step", "exp_avg", "exp_avg_sq"}
            assert all(found[name][factor][key] is value for key, value in states[name][factor].items())
        grown, old = found[Q][factor], states[Q][factor]
        assert grown["step"] == old["step"] == 3
        for key in ("exp_avg", "exp_avg_sq"):
            kept, new = (grown[key][:4], grown[key][4:]) if factor == 0 else (grown[key][:, :4], grown[key][:, 4:])
            assert torch.equal(kept, old[key]) and old[key].any()
            assert new.numel() and not new.any()
    assert_trains_exactly_what_is_trainable(model, optimizer)
    held = {name: update_of(model, name) for name in NAMES}
    step(model, optimizer)
    moved = {name for name in NAMES if not np.array_equal(update_of(model, name), held[name])}
    assert moved == {Q, V, OUT, UP}


def test_old_entries_of_a_grown_adapter_move_as_if_nothing_had_happened() -> None:
    model = adapted(small(), BEFORE)
    optimizer = trained_by(model)
    step(model, optimizer, 3)
    model_twin = copy.deepcopy(model)
    twin = trained_by(model_twin)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    resize(model, BEFORE, allocated({Q: (6, 12.0), V: (4, 8.0), UP: (8, 16.0)}), optimizer=optimizer)
    step(model, optimizer)
    step(model_twin, twin)
    for name in (Q, V, UP):
        for grown, untouched in zip(factors(model, name), factors(model_twin, name), strict=True):
            rows, columns = untouched.shape
            assert (grown[:rows, :columns] - untouched).abs().max() < 1e-9
    assert factors(model, Q)[1][:, 4:].abs().min() > 0


def test_a_scheduler_made_before_goes_on() -> None:
    model = adapted(small(), BEFORE)
    optimizer = trained_by(model)
    scheduler = LambdaLR(optimizer, lambda number: 1 / (1 + number))
    step(model, optimizer)
    scheduler.step()
    resize(model, BEFORE, allocated({Q: (6, 8.0), V: (2, 8.0), OUT: (3, 8.0)}), optimizer=optimizer)
    step(model, optimizer)
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(1e-2 / 3)]
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    before = factors(model, OUT)[1].detach().clone()
    assert not before.eq(0).all()
    optimizer.param_groups[0]["lr"] = 0.0
    step(model, optimizer)
    assert torch.equal(factors(model, OUT)[1], before), "a new parameter does not follow the group's learning rate"


def test_parameters_are_in_the_groups_of_their_multipliers() -> None:
    before = allocated({Q: (4, 8.0), V: (4, 8.0), UP: (4, 8.0)})
    model = adapted(small(), before)
    optimizer = trained_by(model, high=1.0, low=0.5, again=0.5)
    step(model, optimizer, 2)
    states = [optimizer.state[factor] for factor in factors(model, V)]
    after = allocated({Q: (6, 8.0), V: (4, 8.0, 0.5), OUT: (2, 8.0, 0.5), DOWN: (2, 8.0)})
    assert resize(model, before, after, optimizer=optimizer) == list(NAMES)
    expected = [{Q, DOWN}, {V, OUT}, set()]
    for number, names in enumerate(expected):
        assert members(optimizer, number) == {id(factor) for name in names for factor in factors(model, name)}
    for factor, state in zip(factors(model, V), states, strict=True):
        assert all(optimizer.state[factor][key] is value for key, value in state.items())
    back = allocated({Q: (6, 8.0), V: (4, 8.0), DOWN: (2, 8.0)})
    resize(model, after, back, optimizer=optimizer)
    assert members(optimizer, 1) == set()
    step(model, optimizer)


def test_what_is_saved_fits_an_optimizer_made_anew() -> None:
    model = adapted(small(), BEFORE)
    optimizer = trained_by(model)
    step(model, optimizer, 2)
    after = allocated({Q: (6, 8.0), V: (2, 8.0), OUT: (3, 8.0)})
    middle = allocated({V: (2, 8.0), UP: (5, 8.0)})
    resize(model, BEFORE, middle, optimizer=optimizer)
    resize(model, middle, after, optimizer=optimizer)
    step(model, optimizer, 2)
    other = copy.deepcopy(model)
    resumed = trained_by(other)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(model, optimizer)
    step(other, resumed)
    assert torch.equal(logits(model), logits(other))


def test_gradients_of_what_changed_are_dropped() -> None:
    model = adapted(small(), BEFORE)
    model(input_ids=tokens(), labels=tokens()).loss.backward()
    resize(model, BEFORE, allocated({Q: (4, 2.0), UP: (4, 8.0)}), optimizer=None)
    assert all(factor.grad is None for name in (Q, V) for factor in factors(model, name))
    assert all(factor.grad is not None for factor in factors(model, UP))


# ---- what is refused


def grouped(plan: Allocations, name: str) -> Allocations:
    return tuple(
        MatrixAllocation(a.name, a.rank, a.lora_alpha, a.lr_multiplier, "q/0", "AB") if a.name == name else a
        for a in plan
    )


REFUSED: dict[str, tuple[Allocations, Allocations, str]] = {
    "rank": (
        BEFORE,
        allocated({UP: (17, 8.0)}),
        r"rank 17 of .*mlp.up_proj is above its smaller side: take at most 16",
    ),
    "rank of a new one": (BEFORE, allocated({OUT: (17, 8.0)}), r"rank 17 of .*o_proj is above .* take at most 16"),
    "group before": (grouped(BEFORE, Q), BEFORE, r"q_proj shares factors in group q/0, and shared factors cannot"),
    "group after": (BEFORE, grouped(allocated({Q: (6, 8.0)}), Q), r"q_proj shares factors in group q/0"),
    "frozen group": (grouped(BEFORE, Q), allocated({V: (4, 8.0), UP: (4, 8.0)}), r"q_proj shares factors in group q/0"),
    "alpha": (BEFORE, allocated({Q: (4, 0.0)}), r"lora_alpha=0 would switch the adapter of .*q_proj off"),
    "frozen with another rank": (
        BEFORE,
        allocated({Q: (5, 8.0, 0.0)}),
        r"q_proj is to be frozen \(lr_multiplier=0\) with rank 5, lora_alpha 8, but has rank 4, lora_alpha 8",
    ),
    "frozen without adapter": (
        BEFORE,
        allocated({OUT: (5, 8.0, 0.0)}),
        r"o_proj is to be frozen .* but has no adapter",
    ),
    "another rank before": (
        allocated({Q: (5, 8.0), V: (4, 8.0), UP: (4, 8.0)}),
        BEFORE,
        r"before says of .*q_proj: rank 5, lora_alpha 8, trained; the model has rank 4, lora_alpha 8, trained",
    ),
    "another alpha before": (
        allocated({Q: (4, 7.0), V: (4, 8.0), UP: (4, 8.0)}),
        BEFORE,
        r"lora_alpha 7, trained; the",
    ),
    "frozen before": (allocated({Q: (4, 8.0, 0.0), V: (4, 8.0), UP: (4, 8.0)}), BEFORE, r"8, frozen; the model has"),
    "none before": (
        allocated({V: (4, 8.0), UP: (4, 8.0)}),
        BEFORE,
        r"q_proj: no trained adapter; the model has rank 4",
    ),
    "one more before": (
        allocated({Q: (4, 8.0), V: (4, 8.0), UP: (4, 8.0), OUT: (4, 8.0)}),
        BEFORE,
        r"before says of .*o_proj: rank 4, lora_alpha 8, trained; the model has no adapter",
    ),
    "other names": (BEFORE, BEFORE[1:], r"1 matrices are in one of the two plans only, such as .*q_proj"),
    "no linear module": (
        (*BEFORE, MatrixAllocation(name="model.norm", rank=0, lora_alpha=0.0)),
        (*BEFORE, MatrixAllocation(name="model.norm", rank=2, lora_alpha=4.0)),
        r"model.norm is a LlamaRMSNorm, no linear module",
    ),
    "not there": (
        (*BEFORE, MatrixAllocation(name="model.layers.9.mlp", rank=0, lora_alpha=0.0)),
        (*BEFORE, MatrixAllocation(name="model.layers.9.mlp", rank=2, lora_alpha=4.0)),
        r"the model has no module model.layers.9.mlp",
    ),
    "no group of the optimizer": (
        BEFORE,
        allocated({Q: (6, 8.0), V: (4, 8.0, 0.25)}),
        r"v_proj asks for lr_multiplier=0.25, the optimizer has groups for 1 only",
    ),
    "no group for a new one": (BEFORE, allocated({OUT: (6, 8.0, 0.5)}), r"o_proj asks for lr_multiplier=0.5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_anything_changes(case: str) -> None:
    before, after, message = REFUSED[case]
    model = adapted(small(), BEFORE)
    optimizer = trained_by(model)
    was, held, config = logits(model), members(optimizer), model.peft_config["default"].to_dict()
    with pytest.raises(PlanError, match=message):
        resize(model, before, after, optimizer=optimizer)
    assert torch.equal(logits(model), was) and members(optimizer) == held
    assert model.peft_config["default"].to_dict() == config


def test_an_expert_that_is_no_module_may_be_in_both_plans_while_it_is_frozen() -> None:
    expert = MatrixAllocation(name="model.layers.1.mlp.experts.gate_up_proj.0", rank=0, lora_alpha=0.0)
    model = adapted(small(), BEFORE)
    assert resize(model, (*BEFORE, expert), (*allocated({Q: (4, 8.0)}), expert), optimizer=None) == [V, UP]


def test_dora_is_refused() -> None:
    model = adapted(small(), BEFORE, use_dora=True)
    with pytest.raises(PlanError, match=r"q_proj has a DoRA layer, whose magnitudes belong to its present update"):
        resize(model, BEFORE, allocated({Q: (6, 8.0), V: (4, 8.0), UP: (4, 8.0)}), optimizer=None)
    with pytest.raises(PlanError, match=r"v_proj has a DoRA layer"):
        resize(model, BEFORE, allocated({Q: (4, 8.0), UP: (4, 8.0)}), optimizer=None)
    with pytest.raises(PlanError, match=r"q_proj has a DoRA layer"):
        update_of(model, Q)


def merge(model: PeftModel) -> None:
    model.merge_adapter()


def bias(model: PeftModel) -> None:
    layer_of(model, Q).lora_bias["default"] = True


def variant(model: PeftModel) -> None:
    layer_of(model, Q).lora_variant["default"] = object()


@pytest.mark.parametrize("spoil", [merge, bias, variant])
def test_only_plain_and_unmerged_adapters_are_resized(spoil: Callable[[PeftModel], None]) -> None:
    model = adapted(small(), BEFORE)
    spoil(model)
    with pytest.raises(PlanError, match=r"q_proj has a LoRA variant, a LoRA bias, a merged adapter, or is no linear"):
        resize(model, BEFORE, allocated({Q: (6, 8.0)}), optimizer=None)


def test_a_convolution_is_refused() -> None:
    stack = torch.nn.Sequential(torch.nn.Conv2d(6, 8, 3))
    model = get_peft_model(stack, LoraConfig(r=2, lora_alpha=4, target_modules=["0"]))
    with pytest.raises(PlanError, match=r"^0 has a LoRA variant, .* or is no linear module"):
        update_of(model, "0")
    with pytest.raises(PlanError, match=r"^0 has a LoRA variant, .* or is no linear module"):
        resize(model, allocated({"0": (2, 4.0)}, ("0",)), allocated({"0": (3, 4.0)}, ("0",)), optimizer=None)


def test_a_matrix_without_adapter_has_no_update() -> None:
    model = adapted(small(), BEFORE)
    for name in (OUT, "model.layers.9.mlp.up_proj"):
        with pytest.raises(PlanError, match=f"{name} has no LoRA adapter, so it has no update"):
            update_of(model, name)


def test_an_optimizer_of_another_model_is_refused() -> None:
    model = adapted(small(), BEFORE)
    with pytest.raises(PlanError, match=r"an adapter of .*q_proj is trainable but in no parameter group"):
        resize(model, BEFORE, allocated({Q: (2, 8.0)}), optimizer=trained_by(adapted(small(), BEFORE)))
    assert layer_of(model, Q).r["default"] == 4, "it was refused after it had been changed"


def test_a_state_in_another_form_cannot_be_padded_but_can_start_afresh() -> None:
    model = adapted(small(), BEFORE)
    optimizer = trained_by(model)
    step(model, optimizer)
    optimizer.state[factors(model, Q)[1]]["exp_avg"] = torch.zeros(16, 4, dtype=torch.uint8)
    with pytest.raises(
        PlanError, match=r"exp_avg of .*q_proj is \(16, 4\) of torch.uint8 for a parameter of \(16, 4\)"
    ):
        resize(model, BEFORE, allocated({Q: (6, 8.0)}), optimizer=optimizer)
    optimizer.state[factors(model, Q)[1]]["exp_avg"] = torch.zeros(1, 16)
    with pytest.raises(
        PlanError, match=r"exp_avg of .*q_proj is \(1, 16\) of torch.float32 for a parameter of \(16, 4\)"
    ):
        resize(model, BEFORE, allocated({Q: (6, 8.0)}), optimizer=optimizer)
    assert resize(model, BEFORE, allocated({Q: (2, 8.0)}), optimizer=optimizer) == [Q, V, UP]
