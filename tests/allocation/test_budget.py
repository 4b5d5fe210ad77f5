"""Oracle: no limit is the identity."""

import pytest
from pydantic import ValidationError

from spectral_ft.allocation.budget import Unlimited
from spectral_ft.allocation.selection import allocate
from tests.oracles import report


def test_without_a_limit_a_plan_stays_what_it_was():
    of = report({"0.q_proj": 1.0, "1.q_proj": 2.0})
    allocations = allocate(of, {"model.layers.1.q_proj"}, rank=2, lora_alpha=4.0)
    assert Unlimited(kind="none").fit(allocations, of) == allocations


def test_another_kind_is_refused():
    with pytest.raises(ValidationError, match="kind"):
        Unlimited(kind="parameters")
