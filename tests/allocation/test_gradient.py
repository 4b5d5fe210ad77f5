"""Oracle: proportions worked out by hand on typed columns; laws of unit, mean, bounds and order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from spectral_ft.allocation.gradient import Gradient
from spectral_ft.errors import ConfigError, PlanError
from tests.oracles import law, report

OPTIONS = {
    "column": "snr",
    "scope": "per_type",
    "rank": 8,
    "min_rank": 1,
    "max_rank": 64,
    "alpha_factor": 2.0,
    "target_modules": None,
    "lowest_block": 0,
}


def gradient(**changes):
    return Gradient(**OPTIONS | changes)


def ranks(values, shape=(96, 128), **changes):
    """By short name; the report's column `snr` stands for the probe's."""
    allocations = gradient(**changes).allocate(report(values, shape=shape))
    return {a.name.removeprefix("model.layers."): a.rank for a in allocations}


def in_blocks(values, kind="q"):
    return {f"{block}.{kind}": value for block, value in enumerate(values)}


def test_the_rank_is_in_proportion_to_the_value():
    assert list(ranks(in_blocks([1.0, 2.0, 3.0, 6.0]), rank=6).values()) == [2, 4, 6, 12]


def test_the_mean_is_that_of_the_scope():
    values = in_blocks([1.0, 3.0]) | in_blocks([300.0, 100.0], "v")
    assert ranks(values) == {"0.q": 4, "1.q": 12, "0.v": 12, "1.v": 4}
    # 8 times 1, 3, 300, 100 over their mean, 101
    assert ranks(values, scope="global") == {"0.q": 1, "1.q": 1, "0.v": 24, "1.v": 8}


def test_half_a_rank_is_rounded_to_even():
    assert list(ranks(in_blocks([1.0, 3.0]), rank=5).values()) == [2, 8]  # 2.5 and 7.5


def test_ranks_are_clipped_to_what_was_asked_for_and_to_the_smaller_side():
    values = in_blocks([0.0, 1.0, 2.0, 17.0])  # mean 5
    assert list(ranks(values, rank=10, min_rank=3, max_rank=20).values()) == [3, 3, 4, 20]
    assert list(ranks(values, rank=10, shape=(30, 12)).values()) == [1, 2, 4, 12]
    assert list(ranks(values, rank=10, min_rank=9, shape=(6, 12)).values()) == [6] * 4


def test_lora_alpha_is_a_factor_of_the_rank():
    allocations = gradient(alpha_factor=3.0).allocate(report(in_blocks([1.0, 3.0]), shape=(64, 96)))
    assert [(a.rank, a.lora_alpha) for a in allocations] == [(4, 12.0), (12, 36.0)]


def test_a_matrix_without_a_value_is_frozen_and_not_in_the_mean():
    assert ranks(in_blocks([1.0, None, 3.0])) == {"0.q": 4, "1.q": 0, "2.q": 12}


def test_what_is_no_candidate_is_frozen_and_not_in_the_mean():
    assert list(ranks(in_blocks([100.0, 1.0, 3.0]), lowest_block=1).values()) == [0, 4, 12]
    assert ranks(in_blocks([1.0, 3.0]) | {"0.v": 50.0}, scope="global", target_modules=["q"])["1.q"] == 12


def test_only_its_column_is_read():
    assert gradient().reads == {"snr"} and gradient(column="gradient").reads == {"gradient"}
    with pytest.raises(PlanError, match="column='gradient' is not in the report; its columns are snr"):
        ranks({"0.q": 1.0}, column="gradient")


columns = st.lists(st.none() | st.floats(0, 1e6), min_size=1, max_size=8).filter(any)


@law
@given(columns, st.integers(1, 16), st.integers(1, 80), st.integers(2, 40))
def test_ranks_stay_within_their_bounds(values, lowest, highest, side):
    lowest, highest = sorted([lowest, highest])
    found = ranks(in_blocks(values), shape=(side, 48), min_rank=lowest, max_rank=highest)
    for name, value in in_blocks(values).items():
        if value is None:
            assert found[name] == 0
        else:
            assert min(lowest, side) <= found[name] <= min(highest, side)


@law
@given(columns, st.integers(1, 64), st.integers(-20, 20))
def test_the_unit_of_the_column_is_irrelevant(values, rank, exponent):
    scaled = [value and value * 2.0**exponent for value in values]
    assert ranks(in_blocks(scaled), rank=rank) == ranks(in_blocks(values), rank=rank)


@law
@given(st.lists(st.floats(1, 2), min_size=1, max_size=9), st.integers(4, 24))
def test_where_nothing_is_clipped_the_mean_is_the_rank(values, rank):
    found = ranks(in_blocks(values), rank=rank).values()
    assert abs(sum(found) - rank * len(values)) <= len(values) / 2


@law
@given(st.floats(1e-6, 1e6), st.integers(1, 9), st.integers(1, 64))
def test_equal_gradients_give_the_rank_itself(value, count, rank):
    assert set(ranks(in_blocks([value] * count), rank=rank).values()) == {rank}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([2.0, -0.5], r"column='snr' is -0\.5 for model\.layers\.1\.q and 0\.75 on average over the 2 matrices of q"),
        ([0.0, 0.0, None], r"column='snr' is 0 for model\.layers\.\d\.q and 0 on average over the 2 matrices of q: .*"),
    ],
)
def test_nothing_is_in_proportion_to_zeros_or_negative_values(values, words):
    with pytest.raises(PlanError, match=words + ".*not negative, and not all zero"):
        ranks(in_blocks(values))


def test_a_scope_of_zeros_is_refused_though_another_is_not():
    with pytest.raises(PlanError, match="matrices of v: ranks need values"):
        ranks({"0.q": 1.0, "0.v": 0.0})
    assert ranks({"0.q": 1.0, "0.v": 0.0}, scope="global") == {"0.q": 16, "0.v": 1}


def test_a_smallest_rank_above_the_largest_is_refused():
    with pytest.raises(ConfigError, match=r"rank_policy\.min_rank=9 is above max_rank=8"):
        gradient(min_rank=9, max_rank=8)


@pytest.mark.parametrize(
    "wrong", [{"rank": 0}, {"min_rank": 0}, {"alpha_factor": 0.0}, {"scope": "block"}, {"max_rank": 8.5}, {"seed": 1}]
)
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        gradient(**wrong)
