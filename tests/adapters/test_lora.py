"""Adapters of a plan; oracles: the base's own logits, the merged weights, stock PEFT, one gradient step by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from spectral_ft.adapters.lora import add_lora, lora_config, obstacles, set_directions
from spectral_ft.errors import PlanError
from spectral_ft.types import AllocationPlan, MatrixAllocation
from tests.methods.small_bases import batch_for, frozen, logits, lora, mixed, moved, planned, seen, trained, untouched
from tests.oracles import law

BLOCKS = 4
"""So that more than 20 matrices are adapted: from there on PEFT shortens `target_modules` on save."""
BASE = seen(frozen("llama", num_hidden_layers=BLOCKS))
PLAN = planned(lora(), BASE)
NAMES = [m.name for m in BASE.matrices]


def base() -> PreTrainedModel:
    return frozen("llama", num_hidden_layers=BLOCKS)


def layer_of(model: PeftModel, name: str) -> torch.nn.Module:
    return model.get_base_model().get_submodule(name)


def learnt(plan: AllocationPlan = PLAN, **options: bool) -> PeftModel:
    """A few steps away from the start, so that B is not zero."""
    torch.manual_seed(0)
    model = add_lora(base(), plan, lora_dropout=0.0, **options)
    optimizer = torch.optim.AdamW(trained(model).values(), lr=3e-2)
    for _ in range(3):
        model(**batch_for(model)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}])
@pytest.mark.parametrize("model_type", ["llama", "bert", "t5", "gpt2", "falcon"])
def test_fresh_adapters_change_no_logit(model_type: str, options: dict[str, bool]) -> None:
    model = frozen(model_type)
    seen_as = seen(model)
    plan = planned(lora(dora="use_dora" in options), seen_as)
    adapted = add_lora(
        model, plan, task_type=seen_as.task_type, heads=seen_as.heads, lora_dropout=0.5, **options
    ).eval()
    difference = (logits(adapted) - logits(frozen(model_type))).abs().max()
    assert difference <= (1e-5 if options.get("use_dora") else 0)  # DoRA divides by the norms that it multiplies by
    assert (logits(moved(adapted)) - logits(frozen(model_type))).abs().max() > 1e-3  # type: ignore[arg-type]


@settings(law, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 40)), min_size=28, max_size=28))
def test_each_matrix_gets_its_own_rank_and_scaling(drawn: list[tuple[int, int]]) -> None:
    assume(any(rank for rank, _ in drawn))
    allocations = tuple(
        MatrixAllocation(name, rank, alpha / 4 if rank else 0.0)
        for name, (rank, alpha) in zip(NAMES, drawn, strict=True)
    )
    plan = lora().plan(allocations, BASE)
    assert plan.trainable_parameters == sum(
        a.rank * sum(m.sides) for a, m in zip(allocations, BASE.matrices, strict=True)
    )
    adapted = add_lora(base(), plan, lora_dropout=0.0)
    for allocation, m in zip(allocations, BASE.matrices, strict=True):
        layer = layer_of(adapted, allocation.name)
        if not allocation.rank:
            assert not hasattr(layer, "lora_A")
            continue
        assert tuple(layer.lora_A["default"].weight.shape) == (allocation.rank, m.sides[1])
        assert tuple(layer.lora_B["default"].weight.shape) == (m.sides[0], allocation.rank)
        assert layer.scaling["default"] == pytest.approx(allocation.lora_alpha / allocation.rank)


@pytest.mark.parametrize("model_type", ["bert", "t5", "gpt2", "gpt_neox", "phi3"])
def test_the_plan_holds_on_other_architectures(model_type: str) -> None:
    model = frozen(model_type)
    seen_as = seen(model)
    plan = planned(lora(), seen_as)
    adapted = add_lora(model, plan, task_type=seen_as.task_type, heads=seen_as.heads)
    ranks = {
        name: module.r["default"]
        for name, module in adapted.get_base_model().named_modules()
        if "default" in getattr(module, "lora_A", {})
    }
    assert ranks == {a.name: a.rank for a in plan.adapted}


def test_only_adapters_and_heads_are_trainable() -> None:
    assert all(".lora_" in name for name in trained(add_lora(base(), PLAN)))
    bert = frozen("bert")
    seen_as = seen(bert)
    adapted = add_lora(bert, planned(lora(), seen_as), task_type="SEQ_CLS", heads=seen_as.heads)
    beside = {name for name in trained(adapted) if ".lora_" not in name}
    assert beside == {f"base_model.model.classifier.modules_to_save.default.{part}" for part in ("weight", "bias")}


def test_a_head_of_any_name_is_trained_as_a_whole() -> None:
    size = sum(parameter.numel() for parameter in base().lm_head.parameters())
    plan = AllocationPlan(PLAN.allocations, PLAN.trainable_parameters + size, PLAN.adapter_parameters + size, 1)
    adapted = add_lora(base(), plan, heads=["lm_head"])
    beside = [name for name in trained(adapted) if ".lora_" not in name]
    assert beside == ["base_model.model.lm_head.modules_to_save.default.weight"]
    assert torch.equal(logits(adapted.eval()), logits(base()))


def test_what_a_round_froze_is_there_and_stays_as_it_is() -> None:
    still = [a.name for a in PLAN.adapted][::3]
    allocations = tuple(
        MatrixAllocation(a.name, a.rank, a.lora_alpha, 0.0) if a.name in still else a for a in PLAN.allocations
    )
    plan = lora().plan(allocations, BASE)
    assert plan.trainable_parameters < plan.adapter_parameters == PLAN.adapter_parameters
    adapted = add_lora(base(), plan)
    for allocation in plan.adapted:
        factors = dict(layer_of(adapted, allocation.name).named_parameters())
        moves = {p.requires_grad for name, p in factors.items() if "lora_" in name}
        assert moves == {allocation.name not in still}


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}])
def test_a_saved_adapter_opens_in_stock_peft_with_the_same_logits(tmp_path: Path, options: dict[str, bool]) -> None:
    plan = planned(lora(dora="use_dora" in options), BASE)
    assert len(plan.adapted) > 20
    model = learnt(plan, **options)
    model.save_pretrained(str(tmp_path))
    reopened = PeftModel.from_pretrained(base(), str(tmp_path)).eval()
    assert torch.equal(logits(model), logits(reopened))
    assert not torch.allclose(logits(reopened), logits(base()), atol=1e-3)


def test_merged_equals_unmerged() -> None:
    model = learnt()
    before = logits(model)
    merged = model.merge_and_unload()
    assert (logits(merged) - before).abs().max() < 1e-5


def test_the_update_is_scaling_b_a() -> None:
    model, plain = learnt(), base()
    for allocation in PLAN.adapted:
        layer = layer_of(model, allocation.name)
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        plain.get_submodule(allocation.name).weight.data += allocation.lora_alpha / allocation.rank * (b @ a)
    assert (logits(plain) - logits(model)).abs().max() < 1e-5


def test_a_block_number_that_begins_another_is_not_confused() -> None:
    names = [f"model.layers.{block}.self_attn.q_proj" for block in (1, 10, 11)]
    ranks = dict(zip(names, (2, 3, 4), strict=True))
    plan = AllocationPlan(tuple(MatrixAllocation(n, r, 8.0) for n, r in ranks.items()), 1, 1, 1)
    config = LlamaConfig(
        vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=12, num_attention_heads=2
    )
    adapted = get_peft_model(LlamaForCausalLM(config), lora_config(plan))
    found = {n: m.r["default"] for n, m in adapted.named_modules() if hasattr(m, "lora_A")}
    assert found == {f"base_model.model.{name}": rank for name, rank in ranks.items()}


def test_a_plan_that_freezes_everything_is_refused() -> None:
    with pytest.raises(PlanError, match="freezes all 28 matrices: there is nothing to train"):
        lora_config(AllocationPlan(untouched(BASE.matrices), 0, 0, 1))


def test_a_plan_that_counts_wrong_is_refused() -> None:
    plan = AllocationPlan(mixed(BASE.matrices), 7, 7, 1)
    with pytest.raises(PlanError, match=f"counts 7 trainable .*, the adapted model has {PLAN.trainable_parameters}"):
        add_lora(base(), plan)


@pytest.mark.parametrize("chosen", [r"experts", r""], ids=["experts alone", "everything"])
def test_a_matrix_of_a_stack_of_experts_is_refused_by_name(chosen: str) -> None:
    model = frozen("mixtral")
    seen_as = seen(model)
    allocations = tuple(
        MatrixAllocation(m.name, 2, 4.0) if chosen in m.name else MatrixAllocation(m.name, 0, 0.0)
        for m in seen_as.matrices
    )
    with pytest.raises(PlanError, match=r"model\.layers\.0\.mlp\.experts\.0\.w1"):
        add_lora(model, lora().plan(allocations, seen_as))


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "qwen3_moe", "gpt2", "bert"])
def test_stock_peft_adapts_what_has_no_obstacle_and_not_what_has_one(model_type: str) -> None:
    names = [m.name for m in seen(frozen(model_type)).matrices]
    reasons = obstacles(frozen(model_type), names)
    free = [name for name in names if name not in reasons]
    assert adapted_by_peft(model_type, free) == set(free)
    first_of_each_reason = {reason: name for name, reason in reversed(reasons.items())}
    assert bool(reasons) == ("_moe" in model_type or model_type == "mixtral")
    for name in first_of_each_reason.values():
        assert adapted_by_peft(model_type, [name]) != {name}


def adapted_by_peft(model_type: str, names: list[str]) -> set[str]:
    """The linear modules that stock PEFT adapts; nothing if it refuses."""
    try:
        model = get_peft_model(frozen(model_type), LoraConfig(r=2, target_modules=names))
    except ValueError:
        return set()
    modules = model.get_base_model().named_modules()
    return {name for name, module in modules if isinstance(module, Linear)}


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe", "falcon"])
def test_a_matrix_that_can_be_trained_as_a_whole_is_a_weight_of_its_own(model_type: str) -> None:
    model = frozen(model_type)
    names = [m.name for m in seen(model).matrices]
    weights = {name.removesuffix(".weight") for name, _ in model.named_parameters() if name.endswith(".weight")}
    assert set(names) - set(obstacles(model, names, whole=True)) == set(names) & weights
    assert bool(set(names) - weights) == (model_type != "falcon")


def test_directions_are_the_rows_of_a() -> None:
    model = add_lora(base(), PLAN)
    generator = np.random.default_rng(0)
    width = {m.name: m.sides[1] for m in BASE.matrices}
    rows = {a.name: generator.normal(size=(a.rank, width[a.name])).astype(np.float32) for a in PLAN.adapted}
    set_directions(model, rows | {"of.no.matrix": np.zeros((1, 1), np.float32)})
    for name, expected in rows.items():
        weight = layer_of(model, name).lora_A["default"].weight
        assert weight.requires_grad and np.array_equal(weight.detach().numpy(), expected)
    assert torch.equal(logits(model.eval()), logits(base()))


def test_directions_that_do_not_fit_are_refused() -> None:
    model = add_lora(base(), PLAN)
    width = {m.name: m.sides[1] for m in BASE.matrices}
    rows = {a.name: np.zeros((a.rank, width[a.name]), np.float32) for a in PLAN.adapted}
    some = PLAN.adapted[5]
    with pytest.raises(PlanError, match=rf"{some.name} has rank {some.rank}, and 0 directions were found"):
        set_directions(model, {name: found for name, found in rows.items() if name != some.name})
    more = np.zeros((some.rank + 1, width[some.name]), np.float32)
    with pytest.raises(PlanError, match=rf"{some.name} has rank {some.rank}, and {some.rank + 1} directions"):
        set_directions(model, rows | {some.name: more})
