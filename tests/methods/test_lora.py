"""LoRA as a method; oracles: the factors' entries, PEFT's own layers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_ft.adapters.counting import trained_parameters
from spectral_ft.errors import ConfigError
from spectral_ft.types import Cost, MatrixAllocation
from tests.methods.small_bases import Allocations, adapt, frozen, lora, mixed, seen
from tests.oracles import law, matrix

BASE = seen(frozen("llama"))
CLASSES = [("self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",)]
"""Module types that have one shape."""


@st.composite
def plans(draw: st.DrawFn) -> Allocations:
    """Groups of matrices of one shape with one rank; the others on their own, some of them frozen by a later round."""
    found = {}
    for number, types in enumerate(CLASSES):
        names = sorted(m.name for m in BASE.matrices if m.name.endswith(types))
        members = draw(st.sets(st.sampled_from(names), min_size=2))
        rank, shares = draw(st.integers(1, 4)), draw(st.sampled_from(["AB", "A", "B"]))
        group = {name: MatrixAllocation(name, rank, 4.0, 1.0, f"g{number}", shares) for name in members}
        found |= draw(st.sampled_from([{}, group]))
    for m in BASE.matrices:
        alone = MatrixAllocation(m.name, draw(st.integers(0, 4)), 4.0, draw(st.sampled_from([1.0, 0.5, 0.0])))
        found.setdefault(m.name, alone)
    found[BASE.matrices[0].name] = MatrixAllocation(BASE.matrices[0].name, 1, 4.0)  # something is adapted
    return tuple(found[m.name] for m in BASE.matrices)


@settings(law, max_examples=25)
@given(plans(), st.booleans())
def test_what_is_counted_is_what_trains_and_what_is_there(allocations: Allocations, rslora: bool) -> None:
    method = lora(rslora=rslora)
    plan = method.plan(allocations, BASE)
    adapted = method.adapt(frozen("llama"), plan, base=BASE, steps=1, probe=None).model
    assert trained_parameters(adapted) == plan.trainable_parameters
    there = sum(parameter.numel() for parameter in adapted.parameters())
    assert there - BASE.parameters == plan.adapter_parameters


def test_a_rank_costs_both_sides_and_dora_a_magnitude_a_row() -> None:
    wide = matrix("0.q_proj", (5, 7))
    assert lora().cost(wide) == lora(rslora=True).cost(wide) == Cost(a=7, b=5)
    assert lora(dora=True).cost(wide) == Cost(a=7, b=5, fixed=5)


@pytest.mark.parametrize(("rslora", "power"), [(False, 1.0), (True, 0.5)])
def test_the_update_is_scaled_by_alpha_over_the_rank_or_its_root(rslora: bool, power: float) -> None:
    model = frozen("llama")
    adapted = adapt("lora", model, BASE, method=lora(rslora=rslora)).model
    for allocation in mixed(BASE.matrices):
        layer = adapted.get_base_model().get_submodule(allocation.name)
        if allocation.rank:
            assert layer.scaling["default"] == pytest.approx(allocation.lora_alpha / allocation.rank**power)


def test_the_options_reach_the_layers() -> None:
    for options in ({"dora": True}, {"dropout": 0.25}, {}):
        adapted = adapt("lora", frozen("llama"), BASE, method=lora(**options)).model
        config = adapted.peft_config["default"]
        assert (config.use_dora, config.lora_dropout) == (options.get("dora", False), options.get("dropout", 0.0))
        layer = adapted.get_base_model().get_submodule(BASE.matrices[1].name)
        assert bool(layer.lora_magnitude_vector) == config.use_dora


def test_dora_takes_neither_groups_nor_rounds() -> None:
    assert not lora(dora=True).takes.groups and not lora(dora=True).takes.rounds
    with pytest.raises(ConfigError, match=r"method\.rounds=3 does not go with method\.use_dora=true"):
        lora(dora=True, rounds=3)
    assert lora(rounds=3).takes.rounds
