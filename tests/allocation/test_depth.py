"""Oracle: a line through two typed ranks."""

from spectral_ft.allocation.depth import Depth
from tests.oracles import report


def ranks(blocks, **changes):
    given = {"first_rank": 4, "last_rank": 16, "alpha_factor": 2.0, "target_modules": None, "lowest_block": 0}
    allocated = Depth(**given | changes).allocate(report({f"{block}.q": None for block in blocks}, shape=(64, 96)))
    assert all(a.lora_alpha == 2 * a.rank for a in allocated)
    return [a.rank for a in allocated]


def test_ranks_lie_on_a_line():
    assert ranks(range(4)) == [4, 8, 12, 16]
    assert ranks(range(4), first_rank=16, last_rank=4) == [16, 12, 8, 4]


def test_the_line_begins_at_the_lowest_block_that_is_adapted():
    assert ranks(range(4), lowest_block=1) == [0, 4, 10, 16]


def test_one_block_gets_the_first_rank():
    assert ranks([3]) == [4]
