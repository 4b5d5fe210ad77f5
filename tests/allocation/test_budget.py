"""Oracle: percentages by exact fractions, and a sentence for each option that a kind lacks or does not read."""

from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from spectral_ft.allocation.budget import NEEDS, Budget
from spectral_ft.errors import ConfigError
from tests.oracles import law

UNLIMITED, MATCHED = (
    Budget("none", None, None),
    Budget("match", None, SimpleNamespace(budget=Budget("none", None, None))),
)


def percent(share):
    return Budget("percent", share, None)


@pytest.mark.parametrize("budget", [UNLIMITED, MATCHED])
def test_without_a_number_there_is_no_target_yet(budget):
    assert budget.target(10**9) is None


@pytest.mark.parametrize(("value", "target"), [(1.0, 1), (4096.0, 4096), (56_098_816, 56_098_816)])
def test_a_number_is_the_target_whatever_the_base(value, target):
    assert {Budget("params", value, None).target(base) for base in (1, 10**9)} == {target}


@pytest.mark.parametrize(
    ("share", "base", "target"),
    [
        (50.0, 100, 100),
        (20.0, 1000, 250),
        (0.1, 999, 1),
        (33.0, 67, 33),
        (0.01, 9, 0),
        (0.821, 6_738_415_616, 55_780_348),  # 0.821 / 99.179 of LLaMA-7B
        (0.48, 8_030_261_248, 38_731_163),  # 0.48 / 99.52 of LLaMA3-8B
    ],
)
def test_a_percentage_is_of_base_and_trained_together(share, base, target):
    assert percent(share).target(base) == target


@law
@given(st.integers(1, 99_999), st.integers(1, 10**12))
def test_a_percentage_is_never_exceeded_and_missed_by_at_most_one_parameter(thousandths, base):
    target, share = percent(thousandths / 1000).target(base), Fraction(thousandths, 100_000)
    assert Fraction(target, base + target) <= share
    assert Fraction(target + 2, base + target + 2) > share


@law
@given(st.floats(1e-3, 99), st.floats(1e-3, 99), st.integers(1, 10**12))
def test_a_larger_percentage_never_means_fewer_parameters(one, other, base):
    assert percent(min(one, other)).target(base) <= percent(max(one, other)).target(base)


RIGHT = {"none": {}, "params": {"value": 5.0}, "percent": {"value": 5.0}, "match": {"of": MATCHED.of}}


def of_kind(kind, **changes):
    return Budget(**{"kind": kind, "value": None, "of": None} | RIGHT[kind] | changes)


def test_every_kind_builds_with_what_it_needs():
    assert {kind: of_kind(kind).kind for kind in RIGHT} == {kind: kind for kind in NEEDS}
    with pytest.raises(ValidationError, match="kind"):
        Budget(kind="share", value=5.0, of=None)


@pytest.mark.parametrize(("kind", "option"), [("params", "value"), ("percent", "value"), ("match", "of")])
def test_what_a_kind_needs_must_be_there(kind, option):
    with pytest.raises(ConfigError, match=rf"^budget\.kind={kind} needs budget\.{option}\.$"):
        of_kind(kind, **{option: None})


@pytest.mark.parametrize(
    ("kind", "wrong", "kinds"),
    [
        ("none", {"value": 5.0}, "params or percent"),
        ("none", {"of": MATCHED.of}, "match"),
        ("params", {"of": MATCHED.of}, "match"),
        ("percent", {"of": MATCHED.of}, "match"),
        ("match", {"value": 5.0}, "params or percent"),
    ],
)
def test_what_a_kind_does_not_read_is_refused(kind, wrong, kinds):
    (option,) = wrong
    words = rf"^budget\.{option} means nothing with budget\.kind={kind}: .*set budget\.kind to {kinds}\.$"
    with pytest.raises(ConfigError, match=words):
        of_kind(kind, **wrong)


@pytest.mark.parametrize("share", [100.0, 250.0])
def test_everything_is_no_percentage_of_an_adapted_model(share):
    with pytest.raises(ConfigError, match=rf"budget\.value={share:g} is no percentage .* must be below 100"):
        percent(share)


def test_parameters_are_whole():
    with pytest.raises(ConfigError, match=r"budget\.value=1000\.5 is no number of parameters: give a whole number"):
        Budget("params", 1000.5, None)


@pytest.mark.parametrize(
    "wrong", [{"value": 0.0}, {"value": -5.0}, {"value": float("nan")}, {"value": "5"}, {"rank": 8}]
)
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        of_kind("params", **wrong)


@pytest.mark.parametrize("of", ["lora", 3, {"method": "lora"}])
def test_what_is_matched_must_make_a_plan(of):
    with pytest.raises(ConfigError, match=r"budget\.of=.* names no method: give METHOD or METHOD/POLICY"):
        Budget("match", None, of)


@pytest.mark.parametrize("kind", ["none", "params", "percent"])
def test_what_is_matched_may_have_a_budget_of_its_own(kind):
    parts = SimpleNamespace(budget=of_kind(kind))
    assert Budget("match", None, parts).of is parts


def test_what_is_matched_may_not_be_a_match_itself():
    with pytest.raises(ConfigError, match=r"budget\.of refers to a plan whose own budget is a match, .* to itself"):
        Budget("match", None, SimpleNamespace(budget=MATCHED))
