"""Oracle: the same ranks, counted by class of type and shape."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.allocation.depth import Depth
from spectral_ft.allocation.inverse import Inverse
from spectral_ft.allocation.random import Random
from spectral_ft.errors import ConfigError
from tests.oracles import law, report

OF = Depth(first_rank=1, last_rank=30, alpha_factor=2.0, target_modules=None, lowest_block=2)


def model(blocks):
    return report({f"{block}.{kind}": None for kind in ("q", "v") for block in range(blocks)}, shape=(64, 96))


def by_type(allocations):
    found = {}
    for a in allocations:
        found.setdefault(a.name[-1], Counter())[a.rank, a.lora_alpha] += 1
    return found


@law
@given(st.integers(3, 12), st.integers(0, 1000))
def test_the_ranks_of_each_class_stay_the_same(blocks, seed):
    expected = by_type(OF.allocate(model(blocks)))
    for control in (Random(of=OF, seed=seed), Inverse(of=OF)):
        found = control.allocate(model(blocks))
        assert by_type(found) == expected
        assert found == control.allocate(model(blocks))


def test_seeds_give_other_permutations():
    plans = {tuple(a.rank for a in Random(of=OF, seed=seed).allocate(model(8))) for seed in range(10)}
    assert len(plans) > 8
    assert any(plan != tuple(a.rank for a in OF.allocate(model(8))) for plan in plans)


def test_the_lowest_gets_what_the_highest_had():
    before = [a.rank for a in OF.allocate(model(6)) if a.name.endswith("q")]
    after = [a.rank for a in Inverse(of=OF).allocate(model(6)) if a.name.endswith("q")]
    order = sorted(range(6), key=before.__getitem__)
    assert [after[index] for index in order] == sorted(before, reverse=True)


def test_a_control_reads_the_spectrum_where_its_policy_does():
    assert not Random(of=OF, seed=0).reads_spectrum and not Inverse(of=OF).reads_spectrum


@pytest.mark.parametrize(("of", "words"), [("snr_top", "is no policy"), (Inverse(of=OF), "itself a control")])
def test_a_control_needs_a_policy_of_its_own_kind(of, words):
    with pytest.raises(ConfigError, match=words):
        Random(of=of, seed=0)
