"""Oracle: every factor listed by its owner and counted, exact apportionment by fractions, the published percentages."""

from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from math import floor

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from spectral_ft.allocation.budget import Budget
from spectral_ft.allocation.fitting import Unit, fitted, parameters, units
from spectral_ft.errors import PlanError
from spectral_ft.types import AllocationPlan, Cost, MatrixAllocation
from tests.oracles import law, matrix


def lora_costs(matrices, *, fixed=False):
    """`r (d_in + d_out)`, and DoRA's d_out magnitudes."""
    return {m.name: Cost(a=m.sides[1], b=m.sides[0], fixed=m.sides[0] if fixed else 0) for m in matrices}


def counted(allocations, costs):
    """Every tensor once: a shared factor belongs to its group, any other to its matrix."""
    tensors = {}
    for a in allocations:
        if a.rank:
            for factor, size in (("A", costs[a.name].a), ("B", costs[a.name].b)):
                owner = ("group", a.group) if factor in (a.shares or "") else ("matrix", a.name)
                tensors[factor, owner] = a.rank * size
            tensors["fixed", a.name] = costs[a.name].fixed
    return sum(tensors.values())


def together(allocations):
    """Names that have one rank, by group or name."""
    members = defaultdict(set)
    for a in allocations:
        if a.rank:
            members[("group", a.group) if a.group else ("matrix", a.name)].add(a.name)
    return list(members.values())


def with_ranks(allocations, changes):
    return tuple(replace(a, rank=a.rank + changes.get(a.name, 0)) for a in allocations)


def price_of_one_more(allocations, names, costs):
    return counted(with_ranks(allocations, dict.fromkeys(names, 1)), costs) - counted(allocations, costs)


def fit(allocations, matrices, costs, target):
    return fitted(tuple(allocations), units(allocations, matrices, costs), target)


SIDES = st.integers(2, 24)


@st.composite
def plans(draw, *, sides=SIDES, grouped=True):
    """Matrices of up to three shapes, ranks of a policy, some frozen, some in groups; and their costs."""
    matrices, allocations = [], []
    for kind in draw(st.sampled_from(["q", "qv", "quv"])):
        shape = draw(st.tuples(sides, sides))
        blocks = draw(st.integers(1, 5))
        own = [matrix(f"{block}.{kind}", shape) for block in range(blocks)]
        given = [
            MatrixAllocation(
                m.name,
                draw(st.integers(0, min(shape))),
                draw(st.sampled_from([0.5, 3.0, 16.0, 32.0])),
                draw(st.sampled_from([0.5, 1.0])),
            )
            for m in own
        ]
        if grouped and blocks > 1 and draw(st.booleans()):
            size, shares = draw(st.integers(2, blocks)), draw(st.sampled_from(["AB", "A", "B"]))
            first = replace(given[0], rank=max(given[0].rank, 1), group=f"{kind}/0", shares=shares)
            given[:size] = [replace(first, name=m.name) for m in own[:size]]
        matrices += own
        allocations += given
    assume(any(a.rank for a in allocations))
    return tuple(allocations), matrices, lora_costs(matrices, fixed=draw(st.booleans()))


def least_and_most(allocations, matrices, costs):
    smaller = {m.name: m.smaller_side for m in matrices}
    ones = tuple(replace(a, rank=1) if a.rank else a for a in allocations)
    full = tuple(replace(a, rank=smaller[a.name]) if a.rank else a for a in allocations)
    return counted(ones, costs), counted(full, costs)


@st.composite
def affordable(draw, **options):
    allocations, matrices, costs = draw(plans(**options))
    least, most = least_and_most(allocations, matrices, costs)
    return allocations, matrices, costs, draw(st.integers(least, most + 50))


PAIR = [matrix("0.q", (3, 5)), matrix("1.q", (3, 5))]
SHARED = MatrixAllocation(PAIR[0].name, 2, 4.0, 1.0, group="q/0", shares="AB")


@pytest.mark.parametrize(
    ("shares", "per_rank"), [("AB", 5 + 3), ("A", 5 + 2 * 3), ("B", 2 * 5 + 3), (None, 2 * (5 + 3))]
)
def test_what_a_group_shares_is_paid_once(shares, per_rank):
    group = None if shares is None else "q/0"
    pair = [replace(SHARED, name=m.name, group=group, shares=shares) for m in PAIR]
    found = units(pair, PAIR, lora_costs(PAIR, fixed=True))
    assert sum(unit.per_rank for unit in found) == per_rank
    assert sum(unit.fixed for unit in found) == 2 * 3
    assert {unit.largest_rank for unit in found} == {3} and {unit.weight for unit in found} == {2}
    assert parameters(found) == 2 * per_rank + 6


def test_a_unit_has_the_names_of_its_members_and_the_frozen_are_none():
    alone, frozen = MatrixAllocation("model.layers.0.v", 7, 1.0), MatrixAllocation("model.layers.1.v", 0, 0.0)
    matrices = [*PAIR, matrix("0.v", (9, 8)), matrix("1.v", (9, 8))]
    given = [alone, frozen, replace(SHARED, name=PAIR[1].name), SHARED]
    assert units(given, matrices, lora_costs(matrices)) == [
        Unit((PAIR[0].name, PAIR[1].name), weight=2, per_rank=8, fixed=0, largest_rank=3),
        Unit((alone.name,), weight=7, per_rank=17, fixed=0, largest_rank=8),
    ]
    assert parameters(units([frozen], matrices, lora_costs(matrices))) == 0


@law
@given(plans())
def test_units_cost_what_the_tensors_hold(plan):
    allocations, matrices, costs = plan
    assert parameters(units(allocations, matrices, costs)) == counted(allocations, costs)


@law
@given(affordable())
def test_a_budget_is_kept_and_what_is_unused_buys_no_rank(case):
    allocations, matrices, costs, target = case
    found = fit(allocations, matrices, costs, target)
    smaller = {m.name: m.smaller_side for m in matrices}
    unused = target - counted(found, costs)
    prices = [
        price_of_one_more(found, names, costs)
        for names in together(found)
        if all(a.rank < smaller[a.name] for a in found if a.name in names)
    ]
    assert unused >= 0
    assert all(unused < price for price in prices)


@law
@given(affordable())
def test_ranks_stay_within_their_bounds_and_nothing_else_changes(case):
    allocations, matrices, costs, target = case
    found = fit(allocations, matrices, costs, target)
    for before, after, m in zip(allocations, found, matrices, strict=True):
        assert replace(after, rank=before.rank, lora_alpha=before.lora_alpha) == before
        if before.rank:
            assert 1 <= after.rank <= m.smaller_side
            assert after.lora_alpha / after.rank == pytest.approx(before.lora_alpha / before.rank, rel=1e-12)
        else:
            assert after == before


@law
@given(affordable())
def test_a_group_keeps_one_rank_and_one_lora_alpha(case):
    found = fit(*case)
    for names in together(found):
        assert len({(a.rank, a.lora_alpha) for a in found if a.name in names}) == 1


@law
@given(affordable(), st.randoms(use_true_random=False))
def test_the_order_of_the_matrices_is_irrelevant(case, rng):
    allocations, matrices, costs, target = case
    shuffled, reversed_matrices = list(allocations), matrices[::-1]
    rng.shuffle(shuffled)
    assert set(fit(shuffled, reversed_matrices, costs, target)) == set(fit(*case))


@law
@given(plans())
def test_a_plan_that_costs_its_budget_stays_what_it_was(plan):
    allocations, matrices, costs = plan
    found = fit(allocations, matrices, costs, counted(allocations, costs))
    assert [a.rank for a in found] == [a.rank for a in allocations]


@law
@given(plans())
def test_a_budget_is_refused_only_where_rank_one_each_does_not_fit(plan):
    allocations, matrices, costs = plan
    least, most = least_and_most(allocations, matrices, costs)
    assert {a.rank for a in fit(allocations, matrices, costs, least) if a.rank} == {1}
    adapters = len(together(allocations))
    words = (
        rf"^the budget of {least - 1:,} parameters is below rank 1 for each of the {adapters} adapters of the plan, "
    )
    with pytest.raises(PlanError, match=rf"{words}which takes {least:,}: raise budget\.value, or adapt fewer matrices"):
        fit(allocations, matrices, costs, least - 1)
    smaller = {m.name: m.smaller_side for m in matrices}
    assert all(a.rank in {0, smaller[a.name]} for a in fit(allocations, matrices, costs, most + 1000))


@pytest.mark.parametrize("target", [-5, 0])
def test_a_budget_that_heads_use_up_is_refused(target):
    with pytest.raises(PlanError, match=rf"the budget of {target} parameters .* takes 16: raise"):
        fit([replace(SHARED, group=None, shares=None)], PAIR, {PAIR[0].name: Cost(a=7, b=9)}, target)


equal_costs = affordable(sides=st.just(24), grouped=False)


@law
@given(equal_costs)
def test_at_equal_costs_equal_weights_differ_by_one_rank_and_higher_weights_never_get_less(case):
    weight = {a.name: a.rank for a in case[0]}
    ranks = defaultdict(list)
    for a in fit(*case):
        ranks[weight[a.name]].append(a.rank)
    assert all(max(own) - min(own) <= 1 for own in ranks.values())
    for lower, higher in zip(sorted(ranks), sorted(ranks)[1:], strict=False):
        assert max(ranks[lower]) <= max(ranks[higher]) and min(ranks[lower]) <= min(ranks[higher])


@law
@given(st.lists(st.integers(5, 9), min_size=1, max_size=8), st.integers(1, 9))
def test_at_equal_costs_ranks_are_those_of_the_largest_remainders(weights, mean):
    # Weights so near to each other that no ideal rank is below 1; twenty times as many ranks as matrices at most.
    assume(mean * min(weights) >= sum(weights) / len(weights))
    matrices = [matrix(f"{block}.q", (24, 24)) for block in range(len(weights))]
    total = mean * len(weights)
    quotas = [Fraction(total * weight, sum(weights)) for weight in weights]
    left = total - sum(map(floor, quotas))
    remainders = [quota - floor(quota) for quota in quotas]
    order = sorted(range(len(weights)), key=lambda i: (-remainders[i], matrices[i].name))
    # Remainders of unequal weights that tie in exact arithmetic may go either way in floating point.
    cut = {(remainders[i], weights[i]) for i in order if remainders[i] == remainders[order[max(left - 1, 0)]]}
    assume(len(cut) == 1)
    expected = [floor(quota) + (i in order[:left]) for i, quota in enumerate(quotas)]
    given = [MatrixAllocation(m.name, weight, 1.0) for m, weight in zip(matrices, weights, strict=True)]
    assert [a.rank for a in fit(given, matrices, lora_costs(matrices), total * 48)] == expected


@law
@given(affordable())
def test_equal_weights_differ_by_more_only_where_what_is_left_cannot_even_them(case):
    allocations, matrices, costs, target = case
    found = fit(*case)
    left = target - counted(found, costs)
    weight, smaller = {a.name: a.rank for a in allocations}, {m.name: m.smaller_side for m in matrices}
    rank = {a.name: a.rank for a in found}
    parts = [sorted(names) for names in together(found)]
    for low in parts:
        for high in parts:
            equal = weight[low[0]] == weight[high[0]] and rank[low[0]] < min(smaller[name] for name in low)
            if equal and rank[high[0]] - rank[low[0]] > 1:
                gain = price_of_one_more(found, low, costs) - price_of_one_more(found, high, costs)
                assert gain > left


def test_a_second_rank_for_a_cheap_matrix_uses_what_is_left():
    matrices = [matrix("0.a", (50, 50)), matrix("0.b", (5, 5))]
    given = [MatrixAllocation(m.name, 2, 4.0) for m in matrices]
    found = fit(given, matrices, lora_costs(matrices), 2 * 110 + 25)
    assert [(a.rank, a.lora_alpha) for a in found] == [(2, 4.0), (4, 8.0)]


def in_units(*units_, target):
    """Ranks of units that are typed as weight, parameters a rank, largest rank."""
    named = [Unit((f"unit {i}",), weight, per_rank, 0, m) for i, (weight, per_rank, m) in enumerate(units_)]
    given = tuple(MatrixAllocation(unit.names[0], unit.weight, 1.0) for unit in named)
    return [a.rank for a in fitted(given, named, target)]


@pytest.mark.parametrize("left", [7, 8])
def test_a_dear_matrix_takes_the_rank_of_a_cheap_one_where_that_uses_more(left):
    # The first by name takes 3 of what is left, and then the second, which costs 7, would have none.
    assert in_units((1, 3, 9), (1, 7, 9), target=2 * 10 + left) == [2, 3]


def test_a_matrix_that_is_full_takes_no_rank_of_another():
    # Of the ideal ranks 3 (full), 3.9 and 3.9 the last costs too much; the second has what is left until it is full.
    assert in_units((1, 7, 3), (1, 3, 9), (1, 100, 9), target=21 + 9 + 300 + 92) == [3, 9, 3]


@pytest.mark.parametrize(
    ("parts", "ranks"),
    [
        ([(1, 10, 2), (1, 10, 20), (3, 10, 20)], [2, 5, 15]),
        ([(1, 10, 40), (10, 10, 40), (30, 10, 40)], [1, 5, 15]),
        ([(1, 10, 3), (20, 10, 20), (30, 10, 40)], [1, 8, 12]),
        ([(8, 10, 40), (8, 30, 40), (16, 5, 40)], [6, 6, 12]),
    ],
)
def test_what_one_cannot_have_goes_to_the_others_in_proportion(parts, ranks):
    # A full one, and two below rank 1 each; at the end unequal costs.
    target = sum(rank * per_rank for rank, (_, per_rank, _) in zip(ranks, parts, strict=True))
    assert in_units(*parts, target=target) == ranks


def test_the_first_by_name_gets_the_rank_that_is_left():
    matrices = [matrix(f"{block}.q", (8, 8)) for block in range(3)]
    given = [MatrixAllocation(m.name, 5, 10.0) for m in reversed(matrices)]
    found = {a.name[13:]: a.rank for a in fit(given, matrices, lora_costs(matrices), 16 * (3 * 5 + 1))}
    assert found == {"0.q": 6, "1.q": 5, "2.q": 5}


def test_remainders_of_unequal_weights_that_tie_go_by_name():
    matrices = [matrix(f"{block}.q", (99, 99)) for block in range(2)]
    given = [MatrixAllocation(m.name, weight, 1.0) for m, weight in zip(matrices, (21, 27), strict=True)]
    # 56 ranks: 24.5 and 31.5
    assert [a.rank for a in fit(given, matrices, lora_costs(matrices), 56 * 198)] == [25, 31]


HIDDEN, FFN, BASE_7B = 4096, 11008, 6_738_415_616
SHAPES_7B = {
    "q_proj": (HIDDEN, HIDDEN),
    "k_proj": (HIDDEN, HIDDEN),
    "v_proj": (HIDDEN, HIDDEN),
    "up_proj": (FFN, HIDDEN),
    "down_proj": (HIDDEN, FFN),
}
LLAMA_7B = [matrix(f"{block}.{kind}", shape) for block in range(32) for kind, shape in SHAPES_7B.items()]
SHARES = [0.821, 0.48, 0.1]


def scattered(m):
    """Ranks from 4 to 64 that no rule of shape or block explains."""
    return 4 + (m.block * 37 + len(m.type) * 11) % 61


WEIGHTS = {"uniform": lambda m: 32, "scattered": scattered}


def test_the_published_count_of_lora_on_llama_7b():
    plan = [MatrixAllocation(m.name, 32, 64.0) for m in LLAMA_7B]
    assert parameters(units(plan, LLAMA_7B, lora_costs(LLAMA_7B))) == 56_098_816


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("share", SHARES)
def test_a_published_percentage_of_llama_7b_is_kept_to_one_rank(share, weights, fixed):
    costs = lora_costs(LLAMA_7B, fixed=fixed)
    target = Budget("percent", share, None).target(BASE_7B)
    given = tuple(MatrixAllocation(m.name, WEIGHTS[weights](m), 2.0 * WEIGHTS[weights](m)) for m in LLAMA_7B)
    found = fit(given, LLAMA_7B, costs, target)
    count = counted(found, costs)
    cheapest = 2 * HIDDEN
    assert AllocationPlan(found, count, count, BASE_7B).trainable_percent <= share
    one_more = count + cheapest
    assert 100 * one_more / (BASE_7B + one_more) > share
    assert all(a.lora_alpha == pytest.approx(2 * a.rank) for a in found)


def test_groups_of_llama_7b_leave_ranks_for_the_others():
    shared = tuple(MatrixAllocation(m.name, 8, 16.0) for m in LLAMA_7B)
    paired = tuple(
        replace(a, group=f"{m.type}/{m.block // 2}", shares="AB") for a, m in zip(shared, LLAMA_7B, strict=True)
    )
    costs, target = lora_costs(LLAMA_7B), Budget("percent", 0.821, None).target(BASE_7B)
    alone, grouped = (fit(plan, LLAMA_7B, costs, target) for plan in (shared, paired))
    assert {a.rank for a in alone} == {31, 32} and {a.rank for a in grouped} == {63, 64}
    assert 0 <= target - counted(grouped, costs) < 2 * HIDDEN
