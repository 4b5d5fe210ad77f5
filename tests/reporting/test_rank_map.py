"""The rank map; oracle: the plan itself, read back from the columns of the text."""

import re
from itertools import pairwise, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.errors import PlanError
from spectral_ft.reporting.rank_map import WIDTH, group_letters, rank_map
from spectral_ft.types import MatrixShape
from tests.oracles import law, matrix
from tests.reporting.plans import model, plan


def experts(blocks, count, kind="experts.up_proj"):
    return [
        MatrixShape(f"model.layers.{block}.experts.{number}.up_proj", kind, "reads", block, (8, 8))
        for block in range(blocks)
        for number in range(count)
    ]


def parts(text):
    """Heading line, rows and legend of a rank map."""
    _, head, *below = text.splitlines()
    rows = list(takewhile(re.compile(r" *\d+(-\d+)?(  |$)").match, below))
    return head, rows, below[len(rows) :]


def drawn(text):
    """(label, heading) to what stands in that column of a rank map, words joined by one space."""
    head, rows, _ = parts(text)
    words = list(re.finditer(r"\S+", head))
    return {
        (row[: words[0].end()].strip(), word[0]): " ".join(row[before.end() : word.end()].split())
        for row in rows
        for before, word in pairwise(words)
    }


def legend(text):
    """The lines below the map."""
    return parts(text)[2]


@law
@given(ranks=st.lists(st.integers(0, 9999), min_size=14, max_size=14), letters=st.data())
def test_every_cell_is_what_the_plan_says(ranks, letters):
    matrices = model(2)
    groups = letters.draw(st.lists(st.sampled_from([None, "one", "two"]), min_size=14, max_size=14))
    shown = plan(matrices, ranks, groups=groups)
    text, names = rank_map(shown, matrices), group_letters(shown)
    found = drawn(text)
    assert len(found) == 14
    for shape, rank, group in zip(matrices, ranks, groups, strict=True):
        expected = f"{rank} {names[group]}" if rank and group else str(rank or ".")
        assert found[str(shape.block), shape.type] == expected
    assert max(map(len, text.splitlines())) <= WIDTH


def test_the_highest_block_is_on_top_and_types_are_in_order_of_appearance():
    matrices = model(12, ("v", "q"))
    lines = rank_map(plan(matrices, range(24)), matrices).splitlines()
    assert lines[1].split() == ["block", "v", "q"]
    assert [line.split()[0] for line in lines[2:]] == [str(block) for block in reversed(range(12))]
    assert lines[2].split() == ["11", "22", "23"]


def test_ranks_of_a_column_stand_below_each_other_beside_their_letters():
    matrices = model(3, ("q",))
    text = rank_map(plan(matrices, [8, 64, 0], groups=["one"]), matrices)
    rows = text.splitlines()[2:5]
    assert [row.rindex(last) for row, last in zip(rows, (".", "4", "8"), strict=True)] == [rows[0].rindex(".")] * 3


def test_a_block_without_a_type_is_blank_there():
    matrices = [matrix("0.q"), matrix("1.q"), matrix("1.k"), matrix("2.k")]
    found = drawn(rank_map(plan(matrices, [4, 0, 8, 16]), matrices))
    assert found == {
        ("0", "q"): "4",
        ("0", "k"): "",
        ("1", "q"): ".",
        ("1", "k"): "8",
        ("2", "q"): "",
        ("2", "k"): "16",
    }


def test_what_the_plan_does_not_name_is_frozen():
    matrices = model(1, ("q", "k"))
    partial = plan(matrices[:1], [4])
    assert drawn(rank_map(partial, matrices)) == {("0", "q"): "4", ("0", "k"): "."}


def test_a_plan_for_another_model_is_refused():
    matrices = model(2, ("q", "k"))
    with pytest.raises(
        PlanError, match=r"the plan names 2 matrices that this model of 2 does not have, .* is model\.layers\.1\.k:"
    ):
        rank_map(plan(matrices, [1, 1, 1, 1]), matrices[:2])


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [([0, 0, 0], "."), ([8, 8, 8], "8"), ([4, 16, 8], "4-16"), ([0, 8, 0], "0-8"), ([0, 4, 64], "0-64")],
)
def test_experts_show_the_lowest_and_the_highest_rank(ranks, expected):
    matrices = experts(1, 3)
    text = rank_map(plan(matrices, ranks), matrices)
    assert drawn(text) == {("0", "experts.up_proj"): expected}
    assert any("lowest and highest" in line for line in legend(text)) == ("-" in expected)


@pytest.mark.parametrize(
    ("groups", "ranks", "expected"),
    [
        (["g", "g", "g"], [8, 8, 8], "8 a"),
        (["g", "h", "g"], [8, 8, 8], "8 *"),
        (["g", None, "g"], [8, 8, 8], "8 *"),
        (["g", None, "g"], [8, 0, 8], "0-8 a"),  # a frozen one is in no group
        ([None, None, None], [8, 8, 8], "8"),
    ],
)
def test_experts_show_a_letter_where_they_are_in_one_group(groups, ranks, expected):
    matrices = experts(1, 3)
    text = rank_map(plan(matrices, ranks, groups=groups), matrices)
    assert drawn(text) == {("0", "experts.up_proj"): expected}
    assert any(line.startswith("*:") for line in legend(text)) == ("*" in expected)


def test_adapters_that_are_no_longer_trained_are_in_parentheses():
    matrices = [*model(1, ("q", "k")), *experts(1, 2)]
    text = rank_map(plan(matrices, [8, 8, 4, 8], held={0, 2}), matrices)
    assert list(drawn(text).values()) == ["(8)", "8", "4-8"]
    assert "(8): the adapter stays as it is, untrained" in text
    assert "(8)" not in rank_map(plan(matrices, [8, 8, 4, 8]), matrices)


@pytest.mark.parametrize(("blocks", "rows"), [(48, 48), (49, 25), (80, 40), (97, 33), (126, 42)])
def test_many_blocks_share_rows_from_the_lowest_up(blocks, rows):
    matrices = model(blocks, ("q",))
    found = drawn(rank_map(plan(matrices, range(1, blocks + 1)), matrices))
    assert len(found) == rows
    covered = []
    for (label, _), text in found.items():
        first, last = (int(end) for end in (label.split("-") * 2)[:2])
        covered = [*range(first, last + 1), *covered]
        assert text == ("-".join(dict.fromkeys([str(first + 1), str(last + 1)])))
    assert covered == list(range(blocks))


def test_groups_have_letters_in_the_plans_order_and_a_legend():
    matrices = model(1)
    groups = ["second", "first", None, "second", "first", "first", None]
    text = rank_map(plan(matrices, [8] * 7, groups=groups, shares="B"), matrices)
    assert list(drawn(text).values()) == ["8 a", "8 b", "8", "8 a", "8 b", "8 b", "8"]
    assert legend(text) == [
        "groups, and what their matrices share:",
        "  a second: 2 share B  b first: 3 share B",
    ]


def test_letters_go_on_after_z():
    matrices = model(107)
    letters = list(group_letters(plan(matrices, [8] * 749, groups=[str(at) for at in range(749)])).values())
    assert (letters[0], letters[25], letters[26], letters[51], letters[52]) == ("a", "z", "aa", "az", "ba")
    assert (letters[701], letters[702]) == ("zz", "aaa")
    assert len(set(letters)) == 749


def test_frozen_matrices_have_no_group():
    matrices = model(1, ("q", "k"))
    assert group_letters(plan(matrices, [0, 8], groups=["one", "two"])) == {"two": "a"}


def test_without_groups_and_signs_there_is_no_legend():
    matrices = model(2)
    assert legend(rank_map(plan(matrices, [8] * 14), matrices)) == []


def t5_types():
    inner = [f"{attention}.{part}" for attention in ("SelfAttention", "EncDecAttention") for part in "qkvo"]
    return [f"encoder.{leaf}" for leaf in (*"qkvo", "wi", "wo")] + [f"decoder.{leaf}" for leaf in (*inner, "wi", "wo")]


@pytest.mark.parametrize(
    "kinds",
    [
        t5_types(),
        [f"experts.number_{at}.gate_up_proj" for at in range(9)],
        [f"{one}{two}same_long_words" for one in "abcd" for two in "efgh"],  # no cut that fits tells them apart
    ],
)
def test_long_types_are_shortened_with_a_legend(kinds):
    matrices = model(2, kinds)
    text = rank_map(plan(matrices, range(2 * len(kinds))), matrices)
    headings = text.splitlines()[1].split()[1:]
    meanings = dict(entry.split() for line in legend(text)[1:] for entry in re.split(r"(?<=\S)\s{2,}", line.strip()))
    assert [meanings.get(heading, heading) for heading in headings] == kinds
    assert len(set(headings)) == len(kinds)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert drawn(text)["1", headings[-1]] == str(2 * len(kinds) - 1)


def test_types_are_cut_no_shorter_than_needed():
    head = rank_map(plan(model(1, t5_types()), [1] * 16), model(1, t5_types())).splitlines()[1]
    assert head.split()[1:7] == ["e.q", "e.k", "e.v", "e.o", "e.wi", "e.wo"]
    kinds = [f"{letter}_{'long' * 3}" for letter in "abcdefgh"]  # 8 x 16 + 5 = 133, 8 x 14 + 5 = 117
    head = rank_map(plan(model(1, kinds), [1] * 8), model(1, kinds)).splitlines()[1]
    assert head.split()[1] == "a_longlonglo"
