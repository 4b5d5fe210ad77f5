"""AdaLoRA as a method; oracles: counts by hand, PEFT's configuration."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from spectral_ft.adapters.adalora import ranks
from spectral_ft.adapters.counting import trained_parameters
from spectral_ft.errors import ConfigError, PlanError
from spectral_ft.methods.adalora import AdaLora
from spectral_ft.types import Cost, MatrixAllocation
from tests.methods.small_bases import adalora, adapt, batch_for, even, frozen, seen, trained, untouched
from tests.oracles import matrix

BASE = seen(frozen("llama"))
NAMES = [m.name for m in BASE.matrices]


def test_a_rank_costs_both_sides_and_a_singular_value() -> None:
    assert adalora().cost(matrix("0.q_proj", (5, 7))) == Cost(a=7, b=6)


def test_the_plan_counts_the_ranks_that_are_left_and_those_of_the_start() -> None:
    plan = adalora(factor=2.0).plan(even(BASE.matrices, 2), BASE)
    per_rank = sum(sum(m.sides) + 1 for m, a in zip(BASE.matrices, plan.allocations, strict=True) if a.rank)
    assert (plan.trainable_parameters, plan.adapter_parameters) == (2 * per_rank, 4 * per_rank)


def test_the_schedule_is_a_share_of_the_steps() -> None:
    method = replace(adalora(factor=1.5, tinit=0.2, tfinal=0.25, interval=7), dropout=0.125, orthogonality=0.75)
    config = adapt("adalora", frozen("llama"), BASE, method=method, steps=40).model.peft_config["default"]
    assert (config.tinit, config.tfinal, config.total_step, config.deltaT) == (8, 10, 40, 7)
    assert (config.init_r, config.target_r) == (3, 2)
    assert (config.lora_dropout, config.orth_reg_weight) == (0.125, 0.75)
    assert config.lora_alpha / config.init_r == pytest.approx(4.0 / 2)  # the policy's scaling


def test_of_two_neighbouring_ranks_the_lower_is_taken_with_its_scaling() -> None:
    """A budget gives some matrices one rank more than others."""
    ranks = {name: 2 + number % 2 for number, name in enumerate(NAMES)}
    plan = adalora().plan(tuple(MatrixAllocation(n, r, 3.0 * r) for n, r in ranks.items()), BASE)
    assert {(a.rank, a.lora_alpha) for a in plan.allocations} == {(2, 6.0)}


def test_a_policy_of_several_ranks_is_refused() -> None:
    allocations = tuple(MatrixAllocation(name, 1 + number % 3, 4.0) for number, name in enumerate(NAMES))
    with pytest.raises(PlanError, match=r"method=adalora takes a selection .* ranks from 1 to 3: use a policy of one"):
        adalora().plan(allocations, BASE)


def test_a_schedule_without_steps_between_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.tinit=0\.5 and method\.tfinal=0\.5 leave no step"):
        adalora(tinit=0.5, tfinal=0.5)
    adalora(tinit=0.5, tfinal=0.4999)


def run_through(steps: int, method: AdaLora, rank: int = 2) -> Any:
    """A training without batches of any sense: PEFT's allocator fails at its steps, if it fails."""
    allocations = tuple(MatrixAllocation(name, rank, 4.0) for name in NAMES)
    adapted = method.adapt(frozen("llama"), method.plan(allocations, BASE), base=BASE, steps=steps, probe=None)
    optimizer = torch.optim.SGD(trained(adapted.model).values(), lr=0.1)
    for step in range(1, steps + 1):
        adapted.model(**batch_for(adapted.model)).loss.backward()
        optimizer.step()
        adapted.after_step(step)
        optimizer.zero_grad()
    return adapted.model


@pytest.mark.parametrize(("steps", "tinit", "tfinal"), [(3, 0.1, 0.3), (4, 0.1, 0.3), (10, 0.0, 0.0), (6, 0.5, 0.3)])
def test_the_shortest_trainings_reach_the_target(steps: int, tinit: float, tfinal: float) -> None:
    left = ranks(run_through(steps, adalora(tinit=tinit, tfinal=tfinal)))
    assert sum(left.values()) == 2 * len(NAMES)


@pytest.mark.parametrize(("steps", "tinit", "tfinal"), [(1, 0.1, 0.3), (2, 0.1, 0.3), (2, 0.5, 0.4), (10, 0.5, 0.49)])
def test_a_training_without_a_step_in_which_ranks_could_go_is_refused(steps: int, tinit: float, tfinal: float) -> None:
    expected = (
        rf"a training of {steps} steps is too short for AdaLoRA: method\.tinit={tinit} and method\.tfinal={tfinal}"
    )
    with pytest.raises(PlanError, match=expected):
        run_through(steps, adalora(tinit=tinit, tfinal=tfinal))


@pytest.mark.parametrize(
    ("rank", "factor", "smallest"),
    [(2, 1.0, 4), (1, 1.4, 4), (4, 1.5, 4)],
    ids=["factor 1", "rounded down to it", "no higher rank fits"],
)
def test_a_start_that_is_the_end_is_refused(rank: int, factor: float, smallest: int) -> None:
    expected = rf"initial_factor={factor:g} makes {rank} of rank {rank} \(the smallest side of a matrix is {smallest}\)"
    with pytest.raises(PlanError, match=expected):
        adalora(factor=factor).plan(tuple(MatrixAllocation(name, rank, 4.0) for name in NAMES), BASE)


def test_the_start_is_at_most_the_smallest_side() -> None:
    """k_proj and v_proj have a smaller side of 4, the others of 8."""
    method = adalora(factor=3.0)
    plan = method.plan(tuple(MatrixAllocation(name, 2, 4.0) for name in NAMES), BASE)
    assert plan.adapter_parameters == 2 * plan.trainable_parameters
    model = method.adapt(frozen("llama"), plan, base=BASE, steps=10, probe=None).model
    assert trained_parameters(model) == plan.adapter_parameters


def test_a_policy_of_several_scalings_is_refused() -> None:
    allocations = tuple(MatrixAllocation(name, 2, 4.0 + number % 2) for number, name in enumerate(NAMES))
    with pytest.raises(PlanError, match=r"gives 2 values of lora_alpha / rank \(2, 2\.5\): use a policy of one rank"):
        adalora().plan(allocations, BASE)


def test_nothing_selected_costs_nothing() -> None:
    plan = adalora().plan(untouched(BASE.matrices), BASE)
    assert (plan.trainable_parameters, plan.adapter_parameters) == (0, 0)
