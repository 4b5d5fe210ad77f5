"""Oracle: tiers counted by hand on typed columns."""

import pytest

from spectral_ft.allocation.snr_tiers import SnrTiers, Tier
from spectral_ft.errors import ConfigError, PlanError
from tests.oracles import report

HIGH, MID = Tier(rank=16, lora_alpha=32.0, lr_multiplier=1.0), Tier(rank=4, lora_alpha=16.0, lr_multiplier=0.5)
WIDE = (64, 96)
EIGHT = {f"{block}.q": value for block, value in enumerate([5.0, 8.0, 1.0, 7.0, 2.0, 6.0, 3.0, 4.0])}


def policy(**changes):
    given = {
        "column": "snr",
        "scope": "per_type",
        "fractions": [0.25, 0.25],
        "thresholds": None,
        "high": HIGH,
        "mid": MID,
        "target_modules": None,
        "lowest_block": 0,
    }
    return SnrTiers(**given | changes)


def ranks(allocations):
    return {allocation.name.removeprefix("model.layers."): allocation.rank for allocation in allocations}


def test_a_quarter_is_high_the_next_is_mid_the_rest_is_frozen():
    allocated = policy().allocate(report(EIGHT, shape=WIDE))
    assert ranks(allocated) == {name: {8: 16, 7: 16, 6: 4, 5: 4}.get(int(value), 0) for name, value in EIGHT.items()}
    by_rank = {a.rank: (a.lora_alpha, a.lr_multiplier) for a in allocated if a.rank}
    assert by_rank == {16: (32.0, 1.0), 4: (16.0, 0.5)}


def test_thresholds_are_strict_and_tell_three_tiers():
    allocated = policy(fractions=None, thresholds=[6.0, 3.0]).allocate(report(EIGHT, shape=WIDE))
    assert ranks(allocated) == {n: 16 if v > 6 else 4 if v > 3 else 0 for n, v in EIGHT.items()}


def test_each_type_has_its_own_tiers():
    values = {f"{b}.q": 1.0 + b for b in range(4)} | {f"{b}.v": 100.0 + b for b in range(4)}
    found = ranks(policy().allocate(report(values, shape=WIDE)))
    assert [found[f"{b}.q"] for b in range(4)] == [found[f"{b}.v"] for b in range(4)] == [0, 0, 4, 16]
    found = ranks(policy(scope="global").allocate(report(values, shape=WIDE)))
    assert not any(found[f"{b}.q"] for b in range(4))


def test_one_matrix_of_a_type_is_high():
    assert ranks(policy().allocate(report({"0.q": 1.0}, shape=WIDE))) == {"0.q": 16}


def test_thresholds_that_select_nothing_tell_the_highest_value():
    with pytest.raises(PlanError, match=r"thresholds=\[20\.0, 10\.0\] on snr select nothing: its highest value is 8"):
        policy(fractions=None, thresholds=[20.0, 10.0]).allocate(report(EIGHT, shape=WIDE))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"thresholds": [2.0, 1.0]}, "give one of them"),
        ({"fractions": None}, "give one of them"),
        ({"fractions": [0.7, 0.5]}, "add up to 1.2"),
        ({"fractions": None, "thresholds": [1.0, 2.0]}, "the first must be above the second"),
    ],
)
def test_tiers_that_cannot_be_told_apart_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        policy(**changes)
