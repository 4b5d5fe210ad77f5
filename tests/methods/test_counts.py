"""Counts of every method; oracles: what is trainable after adapting, and the published tables."""

import pkgutil
from functools import cache
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import spectral_ft.methods
from spectral_ft.adapters.counting import trained_parameters
from spectral_ft.errors import PlanError
from spectral_ft.methods.bottleneck import Bottleneck
from spectral_ft.methods.none import Nothing
from spectral_ft.methods.prefix import Prefix
from spectral_ft.methods.seam import BaseModel
from spectral_ft.types import MatrixAllocation
from tests.methods.small_bases import (
    LORA_FAMILY,
    METHODS,
    adalora,
    adapt,
    frozen,
    lora,
    planned,
    seen,
    trained,
    untouched,
)

PUBLISHED_MODULES = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
SIZES = {
    "llama-7b": {"vocab_size": 32000, "intermediate_size": 11008, "num_key_value_heads": 32},
    "llama3-8b": {"vocab_size": 128256, "intermediate_size": 14336, "num_key_value_heads": 8},
}
PARAMETERS = {"llama-7b": 6_738_415_616, "llama3-8b": 8_030_261_248}


def large(name: str) -> LlamaForCausalLM:
    """Of the published shapes, without weights."""
    config = LlamaConfig(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, **SIZES[name])
    with torch.device("meta"):
        return LlamaForCausalLM(config).requires_grad_(False)


@cache
def large_base(name: str) -> BaseModel:
    return seen(large(name))._replace(blueprint=lambda: large(name))


def of_modules(base: BaseModel, rank: int) -> tuple[MatrixAllocation, ...]:
    """One rank on the five modules of the published tables."""
    return tuple(
        MatrixAllocation(m.name, rank, 2.0 * rank) if m.type in PUBLISHED_MODULES else MatrixAllocation(m.name, 0, 0.0)
        for m in base.matrices
    )


def series_or_parallel(placement: Any) -> Bottleneck:
    sites = {"series": ["gate_proj", "up_proj"], "parallel": ["up_proj", "down_proj"]}
    return Bottleneck("adapter", placement, sites[placement], 256, "zero")


@pytest.mark.parametrize(
    ("model", "method", "rank", "published", "percent"),
    [
        ("llama-7b", lora(), 32, 56_098_816, 0.826),
        ("llama-7b", lora(rslora=True), 32, 56_098_816, 0.826),
        ("llama-7b", Prefix("prefix", 10), None, 2_621_440, 0.039),
        ("llama-7b", series_or_parallel("series"), None, 134_217_728, 1.953),
        ("llama-7b", series_or_parallel("parallel"), None, 247_463_936, 3.542),
        ("llama3-8b", lora(), 32, 56_623_104, 0.700),
        ("llama3-8b", lora(dora=True), 32, 57_409_536, 0.710),
        ("llama3-8b", lora(dora=True), 16, 29_097_984, 0.361),
    ],
)
def test_a_method_counts_as_published(
    model: str, method: Any, rank: int | None, published: int, percent: float
) -> None:
    base = large_base(model)
    assert base.parameters == PARAMETERS[model]
    plan = method.plan(of_modules(base, rank) if rank else untouched(base.matrices), base)
    assert plan.trainable_parameters == plan.adapter_parameters == published
    assert round(plan.trainable_percent, 3) == percent


@pytest.mark.parametrize("method", [lora(dora=True), Prefix("prefix", 10), series_or_parallel("parallel")])
def test_what_is_put_on_the_published_shapes_is_what_was_counted(method: Any) -> None:
    base = large_base("llama3-8b")
    plan = method.plan(of_modules(base, 16) if method.takes.ranks == "each" else untouched(base.matrices), base)
    with torch.device("meta"):
        adapted = method.adapt(large("llama3-8b"), plan, base=base, steps=1, probe=None)
    assert trained_parameters(adapted.model) == plan.trainable_parameters


def test_adalora_counts_a_singular_value_a_rank_and_half_as_many_ranks_more_at_the_start() -> None:
    """r (d_in + d_out + 1) on 32 blocks of LLaMA-7B: 56,098,816 of LoRA and 5 x 32 x 32 singular values."""
    base = large_base("llama-7b")
    plan = adalora().plan(of_modules(base, 32), base)
    assert plan.trainable_parameters == 56_098_816 + 5 * 32 * 32
    assert plan.adapter_parameters == 3 * plan.trainable_parameters // 2


def test_spectrum_and_full_add_nothing_and_count_whole_matrices() -> None:
    base = large_base("llama-7b")
    plan = METHODS["spectrum"].plan(of_modules(base, 1), base)
    assert plan.trainable_parameters == 32 * (3 * 4096**2 + 2 * 4096 * 11008)
    assert {a.rank for a in plan.allocations} == {0, 4096} and plan.adapter_parameters == 0
    full = METHODS["full"].plan(untouched(base.matrices), base)
    assert full.trainable_parameters == 6_738_415_616 and full.trainable_percent == 100


ON_ARCHITECTURES = [(name, "llama") for name in METHODS] + [
    (name, model_type)
    for model_type in ("bert", "t5")
    for name in (*LORA_FAMILY, "ia3", "ln_tuning", "prefix", "spectrum", "full")
    if (name, model_type) not in {("ln_tuning", "bert")}
]


@pytest.mark.parametrize(("name", "model_type"), ON_ARCHITECTURES)
def test_what_is_trained_is_what_was_counted(name: str, model_type: str) -> None:
    model = frozen(model_type)
    base = seen(model)
    plan = planned(METHODS[name], base)
    before = {id(parameter) for parameter in model.parameters()}
    adapted = adapt(name, model, base).model
    added = [p for p in adapted.parameters() if id(p) not in before and p.numel() > 1]  # AdaLoRA keeps its rank in one
    assert sum(p.numel() for p in added) == plan.adapter_parameters
    at_start = plan.adapter_parameters if name == "adalora" else plan.trainable_parameters
    assert trained_parameters(adapted) == at_start
    assert plan.base_parameters == sum(p.numel() for p in frozen(model_type).parameters())


@pytest.mark.parametrize("name", [*LORA_FAMILY, "ia3", "ln_tuning", "spectrum"])
def test_a_head_of_any_name_is_trained_and_counted(name: str) -> None:
    """PEFT itself knows only what a classifier of the library calls its head."""
    model = frozen("llama")
    size = model.lm_head.weight.numel()
    base = seen(model)
    with_head = base._replace(heads=("lm_head",), head_parameters=size)
    more = planned(METHODS[name], with_head).trainable_parameters - planned(METHODS[name], base).trainable_parameters
    adapted = adapt(name, model, with_head).model
    assert more == size == sum(p.numel() for key, p in trained(adapted).items() if "lm_head" in key)


def test_a_plan_needs_no_weights() -> None:
    """Counting must not change the random state, nor load anything."""
    base = seen(frozen("llama"))
    state = torch.random.get_rng_state()
    for name, method in METHODS.items():
        planned(method, base)
        assert torch.equal(torch.random.get_rng_state(), state), name


def test_every_method_is_tried_here() -> None:
    modules = {module.name for module in pkgutil.iter_modules(spectral_ft.methods.__path__)} - {"seam", "plain"}
    assert {type(method).__module__.rpartition(".")[2] for method in (*METHODS.values(), Nothing("none"))} == modules


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_frozen_strict_and_says_what_it_takes(name: str) -> None:
    method = METHODS[name]
    assert method.takes.ranks in {"each", "one", "whole", "none"}
    assert method.takes.quantized == (name not in {"spectrum", "full"})
    assert method.takes.groups == (name in {"lora", "rslora"}) == method.takes.rounds
    assert method.takes.checkpointing == (name != "prefix")
    assert method.takes.heads == (not name.startswith("adapter"))
    assert hasattr(method, "cost") == (method.takes.ranks != "none")
    with pytest.raises(ValueError, match=r"unexpected_keyword_argument|Unexpected keyword argument"):
        type(method)(**{"name": "x", "no_such_option": 1})


def test_nothing_counts_nothing_and_cannot_be_put_on_a_model() -> None:
    base, method = seen(frozen("llama")), Nothing("none")
    plan = method.plan(untouched(base.matrices), base)
    assert (plan.trainable_parameters, plan.adapter_parameters, plan.trainable_percent) == (0, 0, 0.0)
    with pytest.raises(PlanError, match="method=none trains nothing"):
        method.adapt(frozen("llama"), plan, base=base, steps=1, probe=None)
