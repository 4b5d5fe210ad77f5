"""Shared factors; oracles: an untied twin's gradients, stock PEFT, counts by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from spectral_ft.adapters.lora import add_lora, lora_config
from spectral_ft.adapters.opening import open_adapter
from spectral_ft.adapters.sharing import tie
from spectral_ft.errors import PlanError
from spectral_ft.training.trained_state import load_trained, save_trained
from spectral_ft.types import AllocationPlan, MatrixAllocation, Shares
from tests.methods.small_bases import batch_for, frozen, logits, lora, moved, seen, trained

BASE = seen(frozen("llama", num_hidden_layers=4))
GATES = [m.name for m in BASE.matrices if m.type in {"gate_proj", "up_proj"}][:5]
ALONE = next(m.name for m in BASE.matrices if m.type == "down_proj")
D_OUT, D_IN, RANK = 24, 8, 3
every_way = pytest.mark.parametrize("shares", ["AB", "A", "B"])


def plan_of(shares: Shares | None) -> AllocationPlan:
    """Five matrices of one shape in a group, and one alone."""
    group = None if shares is None else "g"
    given = {name: MatrixAllocation(name, RANK, 6.0, 1.0, group, shares) for name in GATES}
    given[ALONE] = MatrixAllocation(ALONE, 2, 4.0)
    return lora().plan(tuple(given.get(m.name, MatrixAllocation(m.name, 0, 0.0)) for m in BASE.matrices), BASE)


def adapted(shares: Shares | None, dtype: torch.dtype = torch.float32) -> PeftModel:
    torch.manual_seed(0)
    model = add_lora(frozen("llama", num_hidden_layers=4).to(dtype), plan_of(shares), lora_dropout=0.0)
    moved(model)
    return model


def factor(model: Any, name: str, which: str) -> torch.nn.Parameter:
    weight: torch.nn.Parameter = getattr(model.get_base_model().get_submodule(name), f"lora_{which}")["default"].weight
    return weight


def train(model: torch.nn.Module, steps: int, optimizer: torch.optim.Optimizer | None = None) -> torch.optim.Optimizer:
    optimizer = optimizer or torch.optim.AdamW(trained(model).values(), lr=1e-2)
    for step in range(steps):
        model(**batch_for(model, seed=step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


@every_way
def test_the_factors_named_are_one_and_the_others_are_not(shares: Shares) -> None:
    model = adapted(shares)
    for which in "AB":
        kinds = {id(factor(model, name, which)) for name in GATES}
        assert len(kinds) == (1 if which in shares else len(GATES))
        assert id(factor(model, ALONE, which)) not in kinds


@every_way
def test_the_shared_gradient_is_the_sum_of_the_untied_ones(shares: Shares) -> None:
    model, twin = adapted(shares, torch.float64), adapted(None, torch.float64)
    with torch.no_grad():
        for name in (*GATES, ALONE):
            for which in "AB":
                factor(twin, name, which).copy_(factor(model, name, which))
    assert torch.equal(logits(model), logits(twin))
    for each in (model, twin):
        each(**batch_for(each)).loss.backward()
    for which in "AB":
        apart = torch.stack([factor(twin, name, which).grad for name in GATES])  # type: ignore[arg-type]
        if which in shares:
            expected, found = apart.sum(0), factor(model, GATES[0], which).grad
        else:
            expected, found = apart, torch.stack([factor(model, name, which).grad for name in GATES])  # type: ignore[arg-type]
        assert apart.abs().max() > 1e-6
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        (None, RANK * len(GATES) * (D_IN + D_OUT)),
        ("A", RANK * (D_IN + len(GATES) * D_OUT)),
        ("B", RANK * (len(GATES) * D_IN + D_OUT)),
        ("AB", RANK * (D_IN + D_OUT)),
    ],
)
def test_what_is_trained_and_stepped_falls_by_what_is_shared(shares: Shares | None, expected: int) -> None:
    expected += 2 * (D_IN + D_OUT)  # the one alone
    model = adapted(shares)
    assert plan_of(shares).trainable_parameters == expected
    assert sum(p.numel() for p in trained(model).values()) == expected
    state = train(model, 1).state_dict()["state"].values()
    moments = sum(value.numel() for entry in state for value in entry.values() if value.ndim)
    assert moments == 2 * expected


@every_way
def test_training_steps_keep_the_members_equal(shares: Shares) -> None:
    model = adapted(shares)
    before = {which: factor(model, GATES[0], which).detach().clone() for which in "AB"}
    train(model, 3)
    for which in shares:
        owner = factor(model, GATES[0], which)
        assert not torch.equal(owner, before[which])
        assert all(factor(model, name, which) is owner for name in GATES)


@every_way
def test_stock_peft_opens_the_saved_form_and_so_does_open_adapter(shares: Shares, tmp_path: Path) -> None:
    model = adapted(shares)
    model.save_pretrained(str(tmp_path))
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert len(stored) == 2 * (len(GATES) + 1)  # each member has its copy
    expected = logits(model)
    assert torch.equal(
        logits(PeftModel.from_pretrained(frozen("llama", num_hidden_layers=4), str(tmp_path)).eval()), expected
    )
    assert torch.equal(logits(open_adapter(frozen("llama", num_hidden_layers=4), tmp_path)), expected)
    assert not torch.allclose(logits(frozen("llama", num_hidden_layers=4)), expected, atol=1e-3)


@every_way
def test_a_checkpoint_keeps_the_tie(shares: Shares, tmp_path: Path) -> None:
    model = adapted(shares)
    train(model, 2)
    save_trained(model, {}, tmp_path)
    assert sum(tensor.numel() for tensor in load_file(tmp_path / "trained.safetensors").values()) == (
        plan_of(shares).trainable_parameters
    )
    again = add_lora(frozen("llama", num_hidden_layers=4), plan_of(shares), lora_dropout=0.0)
    assert load_trained(again, tmp_path) == {}
    for name, parameter in trained(model).items():
        assert torch.equal(parameter, trained(again)[name])
    for which in shares:
        assert len({id(factor(again, name, which)) for name in GATES}) == 1
    for each in (model, again):
        train(each, 2)
    assert torch.equal(logits(model), logits(again))


def test_two_groups_are_two() -> None:
    names = [m.name for m in BASE.matrices if m.type == "q_proj"]
    given = {n: MatrixAllocation(n, 2, 4.0, 1.0, f"g{number // 2}", "AB") for number, n in enumerate(names)}
    plan = lora().plan(tuple(given.values()), BASE)
    model = add_lora(frozen("llama", num_hidden_layers=4), plan, lora_dropout=0.0)
    assert [factor(model, n, "A") is factor(model, names[0], "A") for n in names] == [True, True, False, False]
    assert plan.trainable_parameters == 2 * 2 * (8 + 8)


@pytest.mark.parametrize(
    ("other", "rank", "shares", "message"),
    [
        (ALONE, RANK, "AB", rf"group g shares A between .*down_proj \({RANK}, 24\) and .*gate_proj \({RANK}, 8\)"),
        (GATES[1], RANK - 1, "A", rf"group g shares A between .* \({RANK}, 8\) and .* \({RANK - 1}, 8\): a group has"),
        (ALONE, RANK, "B", rf"group g shares B between .*down_proj \(8, {RANK}\) and .*gate_proj \(24, {RANK}\)"),
    ],
)
def test_a_group_of_several_shapes_or_ranks_is_refused(other: str, rank: int, shares: Shares, message: str) -> None:
    members = (
        MatrixAllocation(GATES[0], RANK, 6.0, 1.0, "g", shares),
        MatrixAllocation(other, rank, 6.0, 1.0, "g", shares),
    )
    plan = AllocationPlan(members, 1, 1, 1)
    from peft import get_peft_model

    model = get_peft_model(frozen("llama", num_hidden_layers=4), lora_config(plan))
    with pytest.raises(PlanError, match=message):
        tie(model, plan)  # type: ignore[arg-type]
