"""Oracle: no grouping is the identity; classes counted by hand; one sentence for each way in which a group is none."""

from dataclasses import replace

import pytest

from spectral_ft.allocation.grouping import Ungrouped, check_groups, group_names, residual_factor, share_classes
from spectral_ft.allocation.selection import allocate
from spectral_ft.errors import CheckpointError, PlanError
from spectral_ft.types import MatrixAllocation
from tests.oracles import matrix, report

TWO = (matrix("0.q_proj"), matrix("1.q_proj"))
SHARED = MatrixAllocation(TWO[0].name, 4, 8.0, 1.0, group="q_proj/0", shares="AB")
PAIR = (SHARED, replace(SHARED, name=TWO[1].name))


def short(classes):
    return [[member.name.removeprefix("model.layers.") for member in members] for members in classes]


def test_ungrouped_matrices_keep_their_own_adapters():
    of = report({"0.q_proj": 1.0, "1.q_proj": 2.0})
    allocations = allocate(of, {"model.layers.1.q_proj"}, rank=2, lora_alpha=4.0)
    assert Ungrouped().group(allocations, of, None) == allocations
    assert not Ungrouped.reads and not Ungrouped.reads_sketches


MIXED = [matrix("1.q"), matrix("0.q"), matrix("0.k"), matrix("2.q", (8, 4)), replace(matrix("0.o"), side="writes")]


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("type", [["0.k"], ["0.o"], ["0.q", "1.q"], ["2.q"]]),
        ("shape", [["0.k", "0.q", "1.q"], ["0.o"], ["2.q"]]),
    ],
)
def test_a_class_has_one_shape_and_one_type_or_side(by, expected):
    assert short(share_classes(MIXED, by=by)) == expected
    assert short(share_classes(reversed(MIXED), by=by)) == expected


def test_a_class_can_be_split_further():
    rank = {member.name: member.block for member in MIXED}
    assert short(share_classes(MIXED, by="shape", also_equal=rank)) == [["0.k", "0.q"], ["0.o"], ["1.q"], ["2.q"]]


def test_blocks_count_as_numbers():
    assert short(share_classes([matrix("10.q"), matrix("9.q")], by="type")) == [["9.q", "10.q"]]


def test_a_shape_that_is_not_known_cannot_be_shared():
    with pytest.raises(CheckpointError, match=r"shape of model\.layers\.0\.q is not known"):
        share_classes([replace(matrix("0.q"), shape=None)], by="type")


def test_groups_are_numbered_from_the_lowest_block_up_within_their_label():
    groups = [[matrix("10.q"), matrix("11.q")], [matrix("2.q"), matrix("9.q")], [matrix("3.k"), matrix("5.k")]]
    named = group_names(groups, by="type")
    assert {name.removeprefix("model.layers."): group for name, group in named.items()} == {
        "2.q": "q/0",
        "9.q": "q/0",
        "10.q": "q/1",
        "11.q": "q/1",
        "3.k": "k/0",
        "5.k": "k/0",
    }
    by_shape = group_names([[matrix("2.k"), matrix("3.q")], [matrix("0.q"), matrix("1.k")]], by="shape")
    assert sorted(by_shape.values()) == ["reads-8x8/0", "reads-8x8/0", "reads-8x8/1", "reads-8x8/1"]
    assert by_shape["model.layers.0.q"] == "reads-8x8/0"


def test_the_factor_on_the_residual_side():
    sides = {side: replace(TWO[0], side=side) for side in ("reads", "writes", "unknown")}
    assert (residual_factor(sides["reads"]), residual_factor(sides["writes"])) == ("A", "B")
    with pytest.raises(PlanError, match=r"residual_side: whether model\.layers\.0\.q_proj reads .*share=pair"):
        residual_factor(sides["unknown"])


def test_a_group_that_can_share_passes():
    check_groups(PAIR, TWO)
    check_groups((replace(SHARED, group=None, shares=None),), TWO)
    check_groups((*PAIR, MatrixAllocation("frozen", 0, 0.0)), TWO)


WIDE = (TWO[0], matrix("1.q_proj", (8, 16)))


@pytest.mark.parametrize(
    ("first", "second", "matrices", "words"),
    [
        ({}, {}, WIDE, r"q_proj/0 has members of unequal shape: .*0\.q_proj is \(8, 8\), .*1\.q_proj is \(8, 16\)"),
        ({}, {"rank": 2}, TWO, r"unequal rank: .*0\.q_proj has 4, .*1\.q_proj has 2; make them equal"),
        ({}, {"lora_alpha": 9.0}, TWO, r"unequal lora_alpha: .* has 8\.0, .* has 9\.0"),
        ({}, {"lr_multiplier": 0.5}, TWO, r"unequal lr_multiplier: .* has 1\.0, .* has 0\.5"),
        ({}, {"shares": "A"}, TWO, r"unequal shares: .* has AB, .* has A;"),
        ({}, {"shares": None}, TWO, r"1\.q_proj of group q_proj/0 does not say what is shared: .* AB, A and B"),
        ({}, {"group": None}, TWO, r"1\.q_proj has shares=AB but no group"),
        ({}, {"group": "q_proj/1"}, TWO, r"group q_proj/0 has one member, model\.layers\.0\.q_proj: a group needs two"),
        ({"rank": 0}, {"rank": 0}, TWO, r"0\.q_proj of group q_proj/0 has rank 0"),
        ({}, {}, TWO[:1], r"1\.q_proj of group q_proj/0 is none of the model's 1 matrices"),
    ],
)
def test_a_group_that_cannot_share_is_refused(first, second, matrices, words):
    with pytest.raises(PlanError, match=words):
        check_groups((replace(PAIR[0], **first), replace(PAIR[1], **second)), matrices)
