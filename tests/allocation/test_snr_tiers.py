"""Oracle: tiers counted by hand on typed columns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from spectral_ft.allocation.snr_tiers import SnrTiers, Tier
from spectral_ft.errors import ConfigError, PlanError
from tests.oracles import law, report

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


def test_only_its_column_is_read():
    assert policy().reads == {"snr"} and policy(column="alpha_hill").reads == {"alpha_hill"}


columns = st.lists(st.none() | st.floats(0, 100), min_size=1, max_size=12).filter(any)
quarters = st.integers(1, 8)


def tiers(values, **changes):
    """Ranks in the order of the values."""
    of = report({f"{block}.q": value for block, value in enumerate(values)}, shape=WIDE)
    return [a.rank for a in policy(**changes).allocate(of)]


@law
@given(columns, quarters, quarters)
def test_tiers_hold_their_fractions_rounded_down_and_the_higher_values(values, high, mid):
    fractions = [high / 16, mid / 16]
    found, known = tiers(values, fractions=fractions), [v for v in values if v is not None]
    assert found.count(16) == max(1, high * len(known) // 16)
    assert found.count(16) + found.count(4) == max(1, (high + mid) * len(known) // 16)
    by_tier = {
        rank: [v for v, r in zip(values, found, strict=True) if r == rank and v is not None] for rank in (16, 4, 0)
    }
    for upper, lower in ((16, 4), (4, 0), (16, 0)):
        assert min(by_tier[upper], default=100) >= max(by_tier[lower], default=0)


@law
@given(columns, quarters, quarters)
def test_thresholds_tell_a_matrix_without_its_neighbours(values, first, second):
    low, high = sorted([first, second + 8])
    found = tiers([*values, 101.0], fractions=None, thresholds=[float(high), float(low)])
    assert found[-1] == 16
    assert found[:-1] == [0 if v is None else 16 if v > high else 4 if v > low else 0 for v in values]


@pytest.mark.parametrize(
    "wrong",
    [
        {"fractions": [0.5]},
        {"fractions": [0.0, 0.5]},
        {"fractions": [1.5, 0.1]},
        {"scope": "block"},
        {"high": 8},
        {"x": 1},
    ],
)
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        policy(**wrong)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"lora_alpha": 0.0}, {"lr_multiplier": 0.0}])
def test_a_tier_that_gives_nothing_is_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Tier(**{"rank": 4, "lora_alpha": 16.0, "lr_multiplier": 0.5} | wrong)
