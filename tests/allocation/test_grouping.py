"""Oracle: no grouping is the identity."""

from spectral_ft.allocation.grouping import Ungrouped
from spectral_ft.allocation.selection import allocate
from tests.oracles import report


def test_ungrouped_matrices_keep_their_own_adapters():
    of = report({"0.q_proj": 1.0, "1.q_proj": 2.0})
    allocations = allocate(of, {"model.layers.1.q_proj"}, rank=2, lora_alpha=4.0)
    assert Ungrouped().group(allocations, of) == allocations
