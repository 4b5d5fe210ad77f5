"""Oracle: overlaps and rank correlations by hand, and the laws of both."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from spectral_ft.errors import PlanError
from spectral_ft.reporting.plan_difference import SHOWN, difference, difference_table
from spectral_ft.types import AllocationPlan, MatrixAllocation
from tests.oracles import law


def plan(ranks, *, trainable=0, prefix="w"):
    """`prefix0`, `prefix1`, ... of these ranks; None leaves the matrix out."""
    allocations = (
        MatrixAllocation(f"{prefix}{at}", rank, 2.0 * rank) for at, rank in enumerate(ranks) if rank is not None
    )
    return AllocationPlan(tuple(allocations), trainable, trainable, 1000)


ranks_of_ten = st.lists(st.integers(0, 5), min_size=10, max_size=10)


@law
@given(ranks_of_ten)
def test_a_plan_does_not_differ_from_itself(ranks):
    assume(len(set(ranks)) > 1)
    found = difference(plan(ranks), plan(ranks))
    assert found.jaccard == 1
    assert found.spearman == pytest.approx(1)
    assert (found.only_before, found.only_after, found.common) == ((), (), 10)


@law
@given(ranks_of_ten, ranks_of_ten)
def test_there_and_back_is_the_same(one, other):
    there = difference(plan(one, trainable=1), plan(other, trainable=2))
    back = difference(plan(other, trainable=2), plan(one, trainable=1))
    assert there.jaccard == back.jaccard
    assert there.spearman == pytest.approx(back.spearman)
    assert (there.only_before, there.only_after) == (back.only_after, back.only_before)
    assert (there.trainable_before, there.trainable_after) == (back.trainable_after, back.trainable_before) == (1, 2)
    assert 0 <= there.jaccard <= 1
    assert (there.spearman is None) == (len(set(one)) == 1 or len(set(other)) == 1) == (there.reason is not None)


@law
@given(ranks_of_ten, ranks_of_ten)
def test_what_is_adapted_is_in_both_or_in_one(one, other):
    found = difference(plan(one), plan(other))
    assert found.adapted_in_both + len(found.only_before) == sum(rank > 0 for rank in one)
    assert found.adapted_in_both + len(found.only_after) == sum(rank > 0 for rank in other)


@pytest.mark.parametrize(
    ("before", "after", "jaccard", "spearman"),
    [
        ([1, 2, 3, 4, 5], [2, 4, 6, 8, 64], 1, 1),
        ([1, 2, 3, 4, 5], [5, 4, 3, 2, 1], 1, -1),
        ([1, 2, 3, 4, 5], [2, 1, 3, 4, 5], 1, 0.9),  # 1 - 6 (1 + 1) / (5 x 24)
        ([0, 1, 2, 3, 4], [1, 0, 2, 3, 4], 3 / 5, 0.9),
        ([8, 8, 0, 0], [8, 0, 8, 0], 1 / 3, 0),
        ([8, 8, 0, 0], [0, 0, 8, 8], 0, -1),
        ([8, 0, 0], [8, 8, 0], 1 / 2, 0.5),  # ranks 3, 1.5, 1.5 and 2.5, 2.5, 1: 0.75 / 1.5
    ],
)
def test_differences_by_hand(before, after, jaccard, spearman):
    found = difference(plan(before), plan(after))
    assert found.jaccard == pytest.approx(jaccard)
    assert found.spearman == pytest.approx(spearman)
    assert found.reason is None


def test_ranks_are_compared_by_name_over_what_both_plans_know():
    found = difference(plan([1, 2, 3, None, 9]), plan([None, 5, 4, 7, 6]))
    assert found.common == 3  # 2, 3, 9 and 5, 4, 6: 1 - 6 (1 + 1) / 24
    assert found.spearman == pytest.approx(0.5)
    assert (found.only_before, found.only_after) == (("w0",), ("w3",))
    assert found.jaccard == pytest.approx(3 / 5)
    turned = AllocationPlan(plan([None, 5, 4, 7, 6]).allocations[::-1], 0, 0, 1000)
    assert difference(plan([1, 2, 3, None, 9]), turned).spearman == pytest.approx(0.5)


def test_names_are_in_the_order_of_their_plan():
    found = difference(plan([8, 0, 8, 0, 8]), plan([0, 4, 8, 4, 0]))
    assert (found.only_before, found.only_after) == (("w0", "w4"), ("w1", "w3"))
    assert found.adapted_in_both == 1


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ([8, 8, 8], [1, 2, 3], "the first plan gives rank 8 to each of the 3 common matrices"),
        ([1, 2, 3], [0, 0, 0], "the second plan gives rank 0 to each of the 3 common matrices"),
        (
            [4, 4, 4],
            [5, 5, 5],
            "the first plan gives rank 4 to each of the 3 common matrices and "
            "the second plan gives rank 5 to each of the 3 common matrices",
        ),
        ([4, 4, 9], [1, 2], "the first plan gives rank 4 to each of the 2 common matrices"),
    ],
)
def test_ranks_that_do_not_vary_have_no_correlation_and_a_reason(before, after, reason):
    found = difference(plan(before), plan(after))
    assert (found.spearman, found.reason) == (None, reason)
    assert f"Spearman of the ranks - ({reason})" in difference_table(found, before="a", after="b")


def test_plans_that_adapt_nothing_overlap_wholly():
    assert difference(plan([0, 0]), plan([0, 0])).jaccard == 1


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (plan([1, 2]), plan([1, 2, 3], prefix="v"), r"none of the 2 matrices .*\(w0\) is among the 3 .*\(v0\)\. Take"),
        (plan([]), plan([1]), r"none of the 0 matrices of the first \(none\) is among the 1 of the second \(w0\)"),
    ],
)
def test_plans_for_different_models_are_refused(before, after, message):
    with pytest.raises(PlanError, match=f"the plans cannot be compared: {message}"):
        difference(before, after)


def cells(word, text):
    line = next(line for line in text.splitlines() if line.startswith(f"│ {word}"))
    return [cell.strip() for cell in line.strip("│").split("│")][1:]


def test_the_table_has_both_sides():
    before, after = plan([1, 2, 3, 4, 5, 0], trainable=56_098_816), plan([0, 2, 3, 4, 5, 0], trainable=1234)
    text = difference_table(difference(before, after), before="snr_top", after="[depth]")
    assert "from snr_top to [depth]: 6 common matrices" in text
    assert re.search(r"┃ +snr_top ┃ +\[depth\] ┃", text)
    assert cells("trainable parameters", text) == ["56,098,816", "1,234"]
    assert cells("adapted matrices", text) == ["5", "4"]
    assert cells("only here", text) == ["1", "0"]
    assert "Jaccard of the adapted matrices 0.800\n" in text
    # ranks 2, 3, 4, 5, 6, 1 and 1.5, 3, 4, 5, 6, 1.5: 17.25 / sqrt(17.5 x 17)
    assert f"Spearman of the ranks {17 / (17.5 * 17) ** 0.5:.4f}\n" in text
    assert "│ w0 │" in " ".join(text.split())
    assert "w1" not in text


@pytest.mark.parametrize("extra", [0, 1, 5])
def test_many_names_are_cut_and_counted(extra):
    count = SHOWN + extra
    text = difference_table(difference(plan([1] * count + [0]), plan([0] * count + [1])), before="a", after="b")
    assert f"w{SHOWN - 1} " in text
    assert (f"w{SHOWN} " in text.replace(f"w{count} ", "")) is False
    assert (f"and {extra} more" in text) == (extra > 0)
    assert f"w{count} " in text  # of the other side


def test_plans_without_a_difference_list_no_names():
    text = difference_table(difference(plan([1, 2]), plan([1, 2])), before="a", after="b")
    assert "w0" not in text
    assert cells("only here", text) == ["0", "0"]
