"""Oracle: small reports with typed columns, and integer arithmetic where a law is claimed."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.allocation.selection import above, allocate, allocate_each, candidates, top
from spectral_ft.errors import PlanError
from spectral_ft.types import SpectralReport
from tests.oracles import law, report

SMALL = report({"0.q_proj": 4.0, "0.up_proj": 1.0, "1.q_proj": 3.0, "1.up_proj": 2.0})
values = st.dictionaries(
    st.builds("{}.{}".format, st.integers(0, 9), st.sampled_from(["q_proj", "k_proj", "up_proj"])),
    st.one_of(st.none(), st.floats(0, 100)),
    min_size=1,
).filter(lambda columns: any(value is not None for value in columns.values()))


def short(names):
    return sorted(name.removeprefix("model.layers.") for name in names)


def chosen(target_modules=None, lowest_block=0, of=SMALL):
    found = candidates(of, target_modules=target_modules, lowest_block=lowest_block)
    return [spectrum.matrix.name.removeprefix("model.layers.") for spectrum in found]


@pytest.mark.parametrize(
    ("target_modules", "kept"),
    [
        (None, ["0.q_proj", "0.up_proj", "1.q_proj", "1.up_proj"]),
        (["up_proj"], ["0.up_proj", "1.up_proj"]),
        (["up_proj", "q_proj"], ["0.q_proj", "0.up_proj", "1.q_proj", "1.up_proj"]),
        ("q_proj", ["0.q_proj", "1.q_proj"]),
        (r"1\.q_proj", ["1.q_proj"]),
        (r"model\.layers\.0\..*", ["0.q_proj", "0.up_proj"]),
        ("q_proj|up_proj", ["0.q_proj", "0.up_proj", "1.q_proj", "1.up_proj"]),
    ],
)
def test_target_modules_are_types_or_a_regex_on_the_end_of_names(target_modules, kept):
    assert chosen(target_modules) == kept


def test_a_regex_must_match_from_a_dot_on():
    with pytest.raises(PlanError, match="matches none"):
        chosen("proj")


def test_blocks_below_the_lowest_are_left_out():
    assert chosen(lowest_block=1) == ["1.q_proj", "1.up_proj"]


@pytest.mark.parametrize(("target_modules", "lowest_block"), [(["c_attn"], 0), ("c_attn", 0), ([], 0), (None, 2)])
def test_no_match_lists_what_there_is(target_modules, lowest_block):
    known = r"matches none of the 4 matrices of by hand: its module types are q_proj, up_proj, its blocks 0 to 1"
    with pytest.raises(PlanError, match=known):
        chosen(target_modules, lowest_block)


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(PlanError, match=r"target_modules='\(q' is no regular expression"):
        chosen("(q")


@pytest.mark.parametrize(
    ("fraction", "scope", "names"),
    [
        (0.5, "per_type", ["0.q_proj", "1.up_proj"]),
        (0.5, "global", ["0.q_proj", "1.q_proj"]),
        (0.01, "per_type", ["0.q_proj", "1.up_proj"]),
        (0.01, "global", ["0.q_proj"]),
        (0.99, "global", ["0.q_proj", "1.q_proj", "1.up_proj"]),
        (1.0, "per_type", ["0.q_proj", "0.up_proj", "1.q_proj", "1.up_proj"]),
    ],
)
def test_the_highest_of_each_scope_are_taken(fraction, scope, names):
    assert short(top(SMALL.matrices, column="snr", fraction=fraction, scope=scope)) == names


def test_ties_go_by_name():
    tied = report({"2.q_proj": 1.0, "0.q_proj": 1.0, "1.q_proj": 1.0})
    assert short(top(tied.matrices, column="snr", fraction=0.7, scope="global")) == ["0.q_proj", "1.q_proj"]


def test_a_null_is_never_chosen_and_not_counted():
    holed = report({"0.q_proj": None, "1.q_proj": 1.0, "2.q_proj": 2.0, "3.q_proj": None})
    assert short(top(holed.matrices, column="snr", fraction=0.5, scope="per_type")) == ["2.q_proj"]


def test_an_unknown_column_lists_the_known_ones():
    with pytest.raises(PlanError, match=r"rank_policy\.column='alpha' is not in the report; its columns are snr"):
        top(SMALL.matrices, column="alpha", fraction=0.5, scope="global")


def test_a_column_that_is_null_everywhere_says_why():
    empty = report({"0.q_proj": None, "1.q_proj": None})
    with pytest.raises(PlanError, match=r"is null for all 2 candidates \(.*0\.q_proj: made null here\)"):
        top(empty.matrices, column="snr", fraction=0.5, scope="global")


@law
@given(values, st.integers(1, 64), st.sampled_from(["per_type", "global"]))
def test_a_scope_of_n_gives_the_fraction_rounded_down_but_at_least_one(columns, sixty_fourths, scope):
    picked = short(top(report(columns).matrices, column="snr", fraction=sixty_fourths / 64, scope=scope))
    scopes = {}
    for name, value in columns.items():
        if value is not None:
            scopes.setdefault(name.partition(".")[2] if scope == "per_type" else "all", []).append(name)
    for members in scopes.values():
        inside = [name for name in members if name in picked]
        assert len(inside) == max(1, sixty_fourths * len(members) // 64)
        outside = [columns[name] for name in members if name not in picked]
        assert min(columns[name] for name in inside) >= max(outside, default=0)


def test_seven_tenths_of_ninety_are_sixty_three():
    ninety = report({f"{block}.q_proj": float(block) for block in range(90)})
    assert len(top(ninety.matrices, column="snr", fraction=0.7, scope="global")) == 63


@law
@given(values, st.floats(0.01, 1), st.randoms(use_true_random=False))
def test_the_order_of_the_matrices_is_irrelevant(columns, fraction, rng: random.Random):
    shuffled = list(columns.items())
    rng.shuffle(shuffled)
    one = top(report(columns).matrices, column="snr", fraction=fraction, scope="per_type")
    assert top(report(dict(shuffled)).matrices, column="snr", fraction=fraction, scope="per_type") == one


def test_the_chosen_get_the_rank_and_the_others_are_frozen():
    allocations = allocate(SMALL, {"model.layers.1.q_proj"}, rank=4, lora_alpha=8.0)
    assert [(allocation.rank, allocation.lora_alpha) for allocation in allocations] == [(0, 0), (0, 0), (4, 8), (0, 0)]
    assert [allocation.name for allocation in allocations] == [spectrum.matrix.name for spectrum in SMALL.matrices]


def test_a_rank_may_reach_the_smaller_side_and_not_more():
    narrow = report({"0.k_proj": 1.0}, shape=(4, 16))
    assert allocate(narrow, {"model.layers.0.k_proj"}, rank=4, lora_alpha=1.0)[0].rank == 4
    with pytest.raises(PlanError, match=r"rank=5 is above the smaller side of model\.layers\.0\.k_proj.*at most 4"):
        allocate(narrow, {"model.layers.0.k_proj"}, rank=5, lora_alpha=1.0)


def test_a_frozen_matrix_may_be_smaller_than_the_rank():
    spectra = (*report({"0.k_proj": 1.0}, shape=(4, 16)).matrices, *report({"0.q_proj": 1.0}, shape=(16, 16)).matrices)
    both = SpectralReport("by hand", "", {}, spectra)
    assert [a.rank for a in allocate(both, {"model.layers.0.q_proj"}, rank=5, lora_alpha=1.0)] == [0, 5]


def test_a_policy_that_gives_nothing_is_refused():
    with pytest.raises(PlanError, match="selects none of the 1 matrices of by hand"):
        allocate_each(report({"0.k_proj": 1.0}), {})


def test_what_is_above_a_value_is_strictly_above():
    spectra = report({"0.q": 1.0, "1.q": 2.0, "2.q": 3.0, "3.q": None}).matrices
    assert above(spectra, column="snr", threshold=2.0) == {"model.layers.2.q"}
    with pytest.raises(PlanError, match=r"threshold=3 on snr selects none of the 3 .* highest value is 3 .*median 2"):
        above(spectra, column="snr", threshold=3.0)
