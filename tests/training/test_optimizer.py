"""Which parameters are stepped with which learning rate; oracles: one plain gradient step, the groups themselves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainingArguments

from spectral_ft.adapters.optimizer_state import fitting_group
from spectral_ft.errors import PlanError
from spectral_ft.training.optimizer import build_optimizer
from tests.methods.small_bases import METHODS, adapt, batch_for, frozen, lora, seen, trained
from tests.oracles import law

RATE, DECAY = 0.5, 0.25
BASE = seen(frozen("llama", num_hidden_layers=12))
NAMES = [m.name for m in BASE.matrices]


def arguments(optimizer: str = "sgd") -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(Path("nowhere")), learning_rate=RATE, weight_decay=DECAY, optim=optimizer, report_to=[]
    )


ARGUMENTS = arguments()


def rates(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    """Parameter name to learning rate and weight decay."""
    of = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    return {name: of[id(parameter)] for name, parameter in trained(model).items()}


def of_matrix(parameter: str) -> str:
    return parameter.removeprefix("base_model.model.").split(".lora_")[0]


@pytest.mark.parametrize("name", METHODS)
def test_what_is_trained_is_stepped_once_and_nothing_else_is(name: str) -> None:
    model = adapt(name, frozen("llama")).model
    optimizer = build_optimizer(model, ARGUMENTS, {})
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(map(id, trained(model).values()))


@settings(law, max_examples=15)
@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from([0.25, 0.5, 2.0])))
def test_a_multiplier_reaches_its_matrix_and_no_other(multipliers: Mapping[str, float]) -> None:
    """Of 12 blocks, so that a block's number can begin another's."""
    model = MODEL
    found = rates(model, build_optimizer(model, ARGUMENTS, multipliers))
    assert found == {name: (RATE * multipliers.get(of_matrix(name), 1.0), DECAY) for name in trained(model)}


MODEL = adapt("lora", frozen("llama", num_hidden_layers=12), BASE).model


def test_a_plain_step_is_scaled_by_the_multiplier() -> None:
    model = adapt("lora", frozen("llama")).model
    slow, fast = (n for n in seen(frozen("llama")).matrices if n.type in {"up_proj"})
    multipliers = {slow.name: 0.125, fast.name: 4.0}
    without_decay = arguments()
    without_decay.weight_decay = 0.0
    optimizer = build_optimizer(model, without_decay, multipliers)
    model(**batch_for(model)).loss.backward()
    before = {name: parameter.detach().clone() for name, parameter in trained(model).items()}
    optimizer.step()
    seen_multipliers = set()
    for name, parameter in trained(model).items():
        multiplier = multipliers.get(of_matrix(name), 1.0)
        seen_multipliers.add(multiplier)
        torch.testing.assert_close(parameter.detach(), before[name] - RATE * multiplier * parameter.grad)
    assert seen_multipliers == {0.125, 1.0, 4.0}


def test_the_deepest_name_counts() -> None:
    """Spectrum's matrices are parameters of their own modules; a head is below none."""
    model = adapt("full", frozen("llama")).model
    found = rates(
        model,
        build_optimizer(model, ARGUMENTS, {"model.layers.0": 0.5, "model.layers.0.mlp.up_proj": 2.0, "layers.1": 3.0}),
    )
    assert found["model.layers.0.mlp.up_proj.weight"][0] == 2.0 * RATE
    assert found["model.layers.0.mlp.down_proj.weight"][0] == 0.5 * RATE
    assert found["model.layers.1.mlp.down_proj.weight"][0] == 3.0 * RATE
    assert found["lm_head.weight"][0] == RATE


def test_norms_and_biases_and_magnitudes_do_not_decay() -> None:
    for model in (adapt("full", frozen("bert")).model, adapt("dora", frozen("bert")).model):
        found = rates(model, build_optimizer(model, ARGUMENTS, {}))
        assert {decay for _, decay in found.values()} == {DECAY, 0.0}
        for name, (_, decay) in found.items():
            assert decay == (DECAY if trained(model)[name].ndim > 1 else 0.0), name
            if name.endswith("bias") or "LayerNorm" in name or "magnitude" in name:
                assert decay == 0.0, name
            if ".lora_A." in name or ".lora_B." in name:
                assert decay == DECAY, name


def test_what_decays_shrinks_without_a_gradient() -> None:
    model = adapt("full", frozen("bert")).model
    optimizer = build_optimizer(model, ARGUMENTS, {})
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1 - RATE * DECAY if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), factor * before[name])


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adamw_torch", torch.optim.AdamW), ("adafactor", None)]
)
def test_the_optimizer_is_the_one_that_is_named(name: str, kind: Any) -> None:
    optimizer = build_optimizer(MODEL, arguments(name), {NAMES[1]: 0.5})
    assert type(optimizer) is kind if kind else type(optimizer).__name__ == "Adafactor"
    assert {group["lr"] for group in optimizer.param_groups} == {RATE, 0.5 * RATE}


def test_frozen_adapters_are_not_stepped() -> None:
    model = adapt("lora", frozen("llama"), method=lora()).model
    still = next(name for name in trained(model) if "down_proj" in name)
    model.get_parameter(still).requires_grad_(False)
    optimizer = build_optimizer(model, ARGUMENTS, {})
    assert all(p is not model.get_parameter(still) for g in optimizer.param_groups for p in g["params"])


def test_a_round_finds_the_group_of_a_multiplier() -> None:
    optimizer = build_optimizer(MODEL, ARGUMENTS, {NAMES[1]: 0.5, NAMES[2]: 3.0})
    for multiplier in (0.5, 1.0, 3.0):
        assert fitting_group(optimizer, multiplier, name=NAMES[5])["lr"] == multiplier * RATE
    with pytest.raises(PlanError, match=r"has groups for 0\.5, 1, 3 only"):
        fitting_group(optimizer, 0.25, name=NAMES[5])


def test_what_a_round_may_give_has_an_empty_group() -> None:
    optimizer = build_optimizer(MODEL, ARGUMENTS, {NAMES[1]: 0.5}, possible={0.25, 1.0, 4.0})
    held = {group["lr_multiplier"]: len(group["params"]) for group in optimizer.param_groups}
    assert held == {0.25: 0, 0.5: 2, 1.0: len(trained(MODEL)) - 2, 4.0: 0}
    assert fitting_group(optimizer, 4.0, name=NAMES[5])["lr"] == 4.0 * RATE


def test_the_order_of_the_groups_does_not_hang_on_that_of_the_matrices() -> None:
    """So that the state of a checkpoint belongs to the groups of another plan."""
    for multipliers in ({NAMES[1]: 0.5, NAMES[-2]: 2.0}, {NAMES[1]: 2.0, NAMES[-2]: 0.5}):
        groups = build_optimizer(MODEL, ARGUMENTS, multipliers, possible={0.25}).param_groups
        assert [group["lr_multiplier"] for group in groups] == [0.25, 0.5, 1.0, 2.0]


def test_what_a_round_adds_decays_beside_a_head() -> None:
    optimizer = build_optimizer(adapt("lora", frozen("bert")).model, ARGUMENTS, {})
    assert fitting_group(optimizer, 1.0, name="any")["weight_decay"] == DECAY
