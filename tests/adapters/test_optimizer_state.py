"""An optimizer of adapters that are resized; oracles: an unresized twin, an optimizer made anew."""

import copy

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from spectral_ft.adapters.lora_layer import update_of
from spectral_ft.adapters.resize import resize
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
    logits,
    members,
    small,
    step,
    tokens,
    trained_by,
)


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
