"""Oracle: a line through two typed ranks."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from spectral_ft.allocation.depth import Depth
from spectral_ft.errors import PlanError
from tests.oracles import law, report

OPTIONS = {"first_rank": 4, "last_rank": 16, "alpha_factor": 2.0, "target_modules": None, "lowest_block": 0}


def ranks(blocks, **changes):
    allocated = Depth(**OPTIONS | changes).allocate(report({f"{block}.q": None for block in blocks}, shape=(64, 96)))
    assert all(a.lora_alpha == 2 * a.rank for a in allocated)
    return [a.rank for a in allocated]


def test_ranks_lie_on_a_line():
    assert ranks(range(4)) == [4, 8, 12, 16]
    assert ranks(range(4), first_rank=16, last_rank=4) == [16, 12, 8, 4]
    assert ranks(range(4), last_rank=9) == [4, 6, 7, 9]  # 5.67 and 7.33 between


def test_the_line_begins_at_the_lowest_block_that_is_adapted():
    assert ranks(range(4), lowest_block=1) == [0, 4, 10, 16]


def test_one_block_gets_the_first_rank():
    assert ranks([3]) == [4]


def test_shapes_are_enough():
    assert not Depth(**OPTIONS).reads


ends = st.integers(1, 64)


@law
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8, unique=True), ends, ends)
def test_ranks_rise_or_fall_from_end_to_end_and_stay_between(blocks, first, last):
    found = ranks(sorted(blocks), first_rank=first, last_rank=last)
    assert found == sorted(found, reverse=first > last)
    assert found[0] == first and found[-1] == (last if len(blocks) > 1 else first)


@law
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8, unique=True), ends)
def test_equal_ends_are_uniform(blocks, rank):
    assert set(ranks(blocks, first_rank=rank, last_rank=rank)) == {rank}


@law
@given(st.integers(2, 12), ends, ends)
def test_ends_exchanged_mirror_the_line(count, first, last):
    up, down = (ranks(range(count), first_rank=a, last_rank=b) for a, b in ((first, last), (last, first)))
    # Half a rank goes to the even one, in floating point.
    assert all(abs(one - other) <= 1 for one, other in zip(up, reversed(down), strict=True))


def test_a_rank_above_a_side_leaves_the_matrix_out_unless_all_are_below(caplog):
    caplog.set_level(logging.INFO, "spectral_ft")
    assert ranks(range(2), last_rank=65)[-1] == 0 and "1 matrices stay frozen" in caplog.text
    with pytest.raises(PlanError, match=r"above the smaller side of model\.layers\.0\.q"):
        ranks(range(2), first_rank=65, last_rank=65)


@pytest.mark.parametrize("wrong", [{"first_rank": 0}, {"last_rank": 4.5}, {"alpha_factor": 0.0}, {"column": "snr"}])
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Depth(**OPTIONS | wrong)
