"""Oracle: the same ranks, counted by class of type and shape; the same number of parameters."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from spectral_ft.allocation.control import Control
from spectral_ft.allocation.depth import Depth
from spectral_ft.allocation.fitting import parameters, units
from spectral_ft.allocation.inverse import Inverse
from spectral_ft.allocation.random import Random
from spectral_ft.allocation.uniform import Uniform
from spectral_ft.errors import CheckpointError, ConfigError, PlanError
from spectral_ft.types import Cost, MatrixSpectrum, SpectralReport
from tests.allocation.test_selection import POLICIES, every, models
from tests.oracles import law, matrix, report

OF = Depth(first_rank=1, last_rank=30, alpha_factor=2.0, target_modules=None, lowest_block=2)


def model(blocks):
    return report({f"{block}.{kind}": None for kind in ("q", "v") for block in range(blocks)}, shape=(64, 96))


def by_class(allocations, of):
    """What the matrices of each type and shape got, without saying which."""
    found = defaultdict(Counter)
    for a, spectrum in zip(allocations, of.matrices, strict=True):
        found[spectrum.matrix.type, spectrum.matrix.shape][a.rank, a.lora_alpha, a.lr_multiplier] += 1
    return found


def count(allocations, of):
    matrices = [spectrum.matrix for spectrum in of.matrices]
    costs = {m.name: Cost(a=m.sides[1], b=m.sides[0], fixed=m.sides[0]) for m in matrices}
    return parameters(units(allocations, matrices, costs))


@every(POLICIES)
@settings(law, max_examples=20)
@given(of=models, seed=st.integers(0, 1000))
def test_the_ranks_of_each_class_and_the_parameters_stay_exactly_the_same(policy, of, seed):
    expected = policy.allocate(of)
    for control in (Random(of=policy, seed=seed), Inverse(of=policy)):
        found = control.allocate(of)
        assert by_class(found, of) == by_class(expected, of)
        assert count(found, of) == count(expected, of)
        assert control.reads == policy.reads


def test_a_class_has_one_shape():
    shapes = [matrix("0.q", (64, 96)), matrix("1.q", (96, 64)), matrix("2.q", (64, 96)), matrix("3.q", (96, 64))]
    of = SpectralReport("by hand", "", {}, tuple(MatrixSpectrum(m, None, {}) for m in shapes))
    depth = Depth(first_rank=4, last_rank=16, alpha_factor=2.0, target_modules=None, lowest_block=0)
    assert [a.rank for a in depth.allocate(of)] == [4, 8, 12, 16]
    assert [a.rank for a in Inverse(of=depth).allocate(of)] == [12, 16, 4, 8]
    drawn = {tuple(a.rank for a in Random(of=depth, seed=seed).allocate(of)) for seed in range(40)}
    assert drawn == {(a, b, 16 - a, 24 - b) for a in (4, 12) for b in (8, 16)}


def test_seeds_give_other_permutations():
    plans = {tuple(a.rank for a in Random(of=OF, seed=seed).allocate(model(8))) for seed in range(10)}
    assert len(plans) > 8
    assert any(plan != tuple(a.rank for a in OF.allocate(model(8))) for plan in plans)


def test_every_matrix_gets_every_rank_equally_often():
    of = report({f"{block}.q": None for block in range(4)}, shape=(64, 96))
    depth = Depth(first_rank=1, last_rank=4, alpha_factor=2.0, target_modules=None, lowest_block=0)
    drawn = Counter((a.name, a.rank) for seed in range(400) for a in Random(of=depth, seed=seed).allocate(of))
    assert len(drawn) == 16
    assert all(abs(times - 100) < 45 for times in drawn.values())  # five standard deviations of a binomial


def test_the_lowest_gets_what_the_highest_had():
    before = [a.rank for a in OF.allocate(model(6)) if a.name.endswith("q")]
    after = [a.rank for a in Inverse(of=OF).allocate(model(6)) if a.name.endswith("q")]
    order = sorted(range(6), key=before.__getitem__)
    assert [after[index] for index in order] == sorted(before, reverse=True)


@every(POLICIES)
@settings(law, max_examples=20)
@given(of=models)
def test_the_inverse_never_gives_more_to_what_had_more(policy, of):
    before, after = ([a.rank for a in p.allocate(of)] for p in (policy, Inverse(of=policy)))
    classes = [(spectrum.matrix.type, spectrum.matrix.shape) for spectrum in of.matrices]
    for i, own in enumerate(classes):
        for j, other in enumerate(classes):
            assert own != other or before[i] <= before[j] or after[i] <= after[j]


def test_a_control_of_equal_ranks_is_the_policy_itself():
    uniform = Uniform(rank=8, lora_alpha=16.0, target_modules=None, lowest_block=0)
    for control in (Random(of=uniform, seed=7), Inverse(of=uniform)):
        assert control.allocate(model(5)) == uniform.allocate(model(5))


def test_what_the_policy_refuses_its_control_refuses():
    high = Uniform(rank=65, lora_alpha=16.0, target_modules=None, lowest_block=0)
    for control in (Random(of=high, seed=0), Inverse(of=high)):
        with pytest.raises(PlanError, match="rank=65 is above the smaller side"):
            control.allocate(model(2))


def test_ranks_cannot_move_between_shapes_that_are_not_known():
    bare = MatrixSpectrum(matrix("0.q", None), None, {"snr": 1.0})
    with pytest.raises(CheckpointError, match=r"the shape of model\.layers\.0\.q is not known"):
        Inverse(of=POLICIES["snr_top"]).allocate(SpectralReport("by hand", "", {}, (bare,)))


@pytest.mark.parametrize("control", [lambda of: Random(of=of, seed=0), lambda of: Inverse(of=of)])
@pytest.mark.parametrize(
    ("of", "words"),
    [
        ("snr_top", r"rank_policy\.of='snr_top' is no policy: name one"),
        (None, r"rank_policy\.of=None is no policy: name one"),
        (Inverse(of=OF), r"rank_policy\.of is inverse, itself a control: name another policy"),
        (Random(of=OF, seed=1), r"rank_policy\.of is random, itself a control: name another policy"),
    ],
)
def test_a_control_needs_a_policy_that_is_none_itself(control, of, words):
    with pytest.raises(ConfigError, match=words):
        control(of)


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"seed": 0.5}, {"rank": 8}])
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Random(**{"of": OF, "seed": 0} | wrong)


def test_a_control_is_told_from_a_policy_by_its_kind():
    assert isinstance(Inverse(of=OF), Control) and not isinstance(OF, Control)
