"""The table of a plan; oracle: the plan itself, read back from the rows of the text."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.errors import PlanError
from spectral_ft.reporting.plan_table import plan_table
from spectral_ft.types import AllocationPlan, MatrixAllocation
from tests.oracles import law
from tests.reporting.plans import model, plan


def row_of(word, text):
    line = next(line for line in text.splitlines() if re.match(rf"[│ ]*{re.escape(word)}\s", line))
    return [cell.strip() for cell in line.strip("│ ").split("│")]


def fact(word, text):
    return next(line for line in text.splitlines() if line.startswith(word)).removeprefix(word).strip()


def test_what_the_plan_does_not_name_is_frozen():
    matrices = model(1, ("q", "k"))
    partial = plan(matrices[:1], [4])
    assert row_of("all", plan_table(partial, matrices, None))[1] == "1 of 2"


def test_a_plan_for_another_model_is_refused():
    matrices = model(2, ("q", "k"))
    with pytest.raises(
        PlanError, match=r"the plan names 2 matrices that this model of 2 does not have, .* is model\.layers\.1\.k:"
    ):
        plan_table(plan(matrices, [1, 1, 1, 1]), matrices[:2], None)


def test_counts_and_ranks_are_by_module_type():
    matrices = model(4, ("q", "k", "v"))
    ranks = {"q": [4, 64, 0, 8], "k": [0, 0, 0, 0], "v": [2, 4, 8, 32]}
    text = plan_table(plan(matrices, [ranks[m.type][m.block] for m in matrices]), matrices, None)
    assert row_of("q", text) == ["q", "3 of 4", "4", "8", "64"]
    assert row_of("k", text) == ["k", "0 of 4", "-", "-", "-"]
    assert row_of("v", text) == ["v", "4 of 4", "2", "6", "32"]
    assert row_of("all", text) == ["all", "7 of 12", "2", "8", "64"]


@law
@given(st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_the_rows_add_up_to_the_plan(ranks):
    matrices = model(4, ("q", "k", "v"))
    text = plan_table(plan(matrices, ranks), matrices, None)
    adapted = Counter(shape.type for shape, rank in zip(matrices, ranks, strict=True) if rank)
    for kind in ("q", "k", "v"):
        assert row_of(kind, text)[1] == f"{adapted[kind]} of 4"
    assert row_of("all", text)[1] == f"{sum(adapted.values())} of 12"


def test_totals_are_exact():
    matrices = model(1, ("q",))
    shown = AllocationPlan((MatrixAllocation(matrices[0].name, 8, 16.0),), 56_098_816, 60_000_000, 6_738_415_616)
    text = plan_table(shown, matrices, None)
    # 56,098,816 / 6,798,415,616
    assert fact("trainable parameters", text) == "56,098,816 (0.825 % of all)"
    assert fact("adapter parameters", text) == "60,000,000"
    assert fact("base parameters", text) == "6,738,415,616"
    assert "memory" not in text and "groups" not in text


def test_groups_are_counted():
    matrices = model(1)
    text = plan_table(plan(matrices, [8] * 6 + [0], groups=["x", "x", None, "y", "y", "y", "z"]), matrices, None)
    assert fact("groups", text) == "2, of 5 matrices"


def test_memory_is_by_part_with_its_total():
    matrices = model(1, ("q",))
    memory = {"base": 3 * 2**29, "adapters": 2**20 // 2, "optimizer": 2**30 - 2**20}
    text = plan_table(plan(matrices, [8]), matrices, memory)
    assert fact("estimated memory, base", text) == "1.50 GiB"
    assert fact("estimated memory, adapters", text) == "0.5 MiB"
    assert fact("estimated memory, optimizer", text) == "1023.0 MiB"
    assert fact("estimated memory, total", text) == "2.50 GiB"
