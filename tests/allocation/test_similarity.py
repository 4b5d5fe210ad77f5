"""Oracle: gradients with planted row and column spaces, and the laws of a cosine."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.allocation.clusters import positive_values, scaled_log_distances
from spectral_ft.allocation.similarity import (
    class_similarities,
    comparable_pairs,
    cosine_similarities,
    gram_similarities,
    pair_similarities,
    split_half_agreement,
)
from spectral_ft.errors import PlanError
from spectral_ft.types import Probe
from tests.oracles import gaussian, law, matrix, report, rotation

K = 12


def acting_on(family: int, *, seed: int) -> np.ndarray:
    """A gradient of two input directions, which depend on the family; what comes out depends on the seed."""
    return rotation(K, seed=seed)[:, :2] @ gaussian(2, K, seed=1000 + family)


FAMILIES = [0, 0, 0, 1, 1, 1]
SKETCHES = np.stack([acting_on(family, seed=seed) for seed, family in enumerate(FAMILIES)])
TOGETHER = np.equal.outer(FAMILIES, FAMILIES)


def probe(sketches, halves=None) -> Probe:
    return Probe((), {}, sketches=sketches, half_sketches=halves or {})


def test_a_cosine_is_that_of_the_entries():
    typed = np.array([[[1.0, 0], [0, 0]], [[1, 1], [0, 0]], [[0, 0], [0, -2]], [[-3, 0], [0, 0]]])
    expected = [[1, 0.5**0.5, 0, -1], [0.5**0.5, 1, 0, -(0.5**0.5)], [0, 0, 1, 0], [-1, -(0.5**0.5), 0, 1]]
    assert cosine_similarities(typed) == pytest.approx(np.array(expected))


def test_gram_sees_the_shared_input_directions_that_a_cosine_does_not():
    """All of a family have one Gram matrix; of two equally large families, each is the other's opposite."""
    for side, sketches in (("reads", SKETCHES), ("writes", SKETCHES.swapaxes(1, 2))):
        assert gram_similarities(sketches, side=side) == pytest.approx(np.where(TOGETHER, 1.0, -1.0), abs=1e-6)
        assert np.abs(cosine_similarities(sketches)[~np.eye(6, dtype=bool)]).max() < 0.4


def test_each_side_looks_at_its_own_directions():
    outputs = gram_similarities(SKETCHES, side="writes")
    assert abs(outputs[TOGETHER & ~np.eye(6, dtype=bool)].mean() - outputs[~TOGETHER].mean()) < 0.5


@law
@given(st.integers(3, 8), st.sampled_from(["reads", "writes"]), st.integers(0, 1000))
def test_similarities_are_symmetric_bounded_and_blind_to_scale_and_sign(count, side, seed):
    rng = np.random.default_rng(seed)
    sketches = rng.normal(size=(count, 5, 5))
    scaled = sketches * (rng.uniform(0.01, 100, size=count) * rng.choice([-1, 1], size=count))[:, None, None]
    for found, again in (
        (cosine_similarities(sketches), np.abs(cosine_similarities(scaled))),
        (gram_similarities(sketches, side=side), gram_similarities(scaled, side=side)),
    ):
        assert (found == found.T).all() and np.abs(found).max() <= 1
        assert np.diag(found) == pytest.approx(1.0)
        assert (np.abs(found) if (again >= 0).all() else found) == pytest.approx(again, abs=1e-9)


@law
@given(st.integers(3, 8), st.integers(0, 1000))
def test_gram_is_blind_to_a_rotation_of_the_other_side(count, seed):
    sketches = np.random.default_rng(seed).normal(size=(count, 5, 5))
    turned = np.stack([rotation(5, seed=seed + index) @ sketch for index, sketch in enumerate(sketches)])
    found = gram_similarities(sketches, side="reads")
    assert gram_similarities(turned, side="reads") == pytest.approx(found, abs=1e-9)
    assert np.abs(gram_similarities(turned, side="writes") - found).max() > 1e-3


def test_without_the_mean_unrelated_gradients_are_not_alike():
    unrelated = gaussian(20 * 40, 40, seed=3).reshape(20, 40, 40)
    pairs = comparable_pairs([gram_similarities(unrelated, side="reads")])
    assert pairs.mean() == pytest.approx(-1 / 19, abs=0.01)
    assert pairs.max() < 0.1


def test_a_class_of_two_has_nothing_to_compare_after_the_mean():
    assert np.isnan(gram_similarities(SKETCHES[:2], side="reads")).all()
    assert np.isnan(gram_similarities(SKETCHES[[0, 3, 3]] * [[[1]], [[1]], [[0]]], side="reads")).all()
    assert not np.isnan(gram_similarities(SKETCHES[:3] + SKETCHES[3:], side="reads")).any()


def test_a_gram_matrix_that_is_the_mean_has_no_direction():
    assert np.isnan(gram_similarities(SKETCHES[:3], side="reads")).all()


def test_a_zero_gradient_is_like_nothing():
    sketches = SKETCHES.copy()
    sketches[2] = 0
    for found in (cosine_similarities(sketches), gram_similarities(sketches, side="reads")):
        assert np.isnan(found[2]).all() and np.isnan(found[:, 2]).all()
        assert np.isnan(found).sum() == 11
    assert gram_similarities(sketches, side="reads")[3:, 3:] == pytest.approx(1.0)
    assert len(comparable_pairs([gram_similarities(sketches, side="reads")])) == 10


def test_pairs_are_counted_once_over_all_classes():
    assert comparable_pairs([]).shape == (0,)
    typed = np.array([[1.0, 2, np.nan], [2, 1, 3], [np.nan, 3, 1]])
    assert comparable_pairs([typed, np.ones((1, 1)), np.array([[1.0, 4], [4, 1]])]).tolist() == [2, 3, 4]


def test_every_pair_that_may_share_is_listed_once():
    names = [f"{block}.q" for block in range(3)] + [f"{block}.k" for block in range(3)]
    matrices = [matrix(name) for name in names]
    sketches = {m.name: sketch.astype(np.float32) for m, sketch in zip(matrices, SKETCHES, strict=True)}
    by_type = pair_similarities(matrices, probe(sketches), similarity="cosine", by="type")
    assert [(pair.label, pair.first[13:], pair.second[13:]) for pair in by_type] == [
        (kind, f"{i}.{kind}", f"{j}.{kind}") for kind in "kq" for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    expected = cosine_similarities(SKETCHES)
    assert by_type[0].similarity == pytest.approx(expected[3, 4], abs=1e-6)
    assert by_type[-1].similarity == pytest.approx(expected[1, 2], abs=1e-6)
    by_shape = pair_similarities(reversed(matrices), probe(sketches), similarity="gram", by="shape")
    alike = {frozenset((pair.first, pair.second)) for pair in by_shape if pair.similarity > 0.5}
    assert {pair.label for pair in by_shape} == {"reads-8x8"} and len(by_shape) == 15
    assert alike == {frozenset((a, b)) for a in sketches for b in sketches if a < b and a[-1] == b[-1]}


def test_pairs_that_cannot_be_compared_are_left_out():
    sketches = {matrix(f"{block}.q").name: np.eye(2) * (block != 1) for block in range(3)}
    found = pair_similarities([matrix(f"{b}.q") for b in range(3)], probe(sketches), similarity="cosine", by="type")
    assert [(pair.first[13:], pair.second[13:]) for pair in found] == [("0.q", "2.q")]
    assert found[0].similarity == pytest.approx(1.0)


def test_writers_are_compared_on_what_they_write():
    members = [replace(matrix(f"{block}.o"), side="writes") for block in range(6)]
    sketches = {member.name: sketch.T for member, sketch in zip(members, SKETCHES, strict=True)}
    assert class_similarities(members, probe(sketches), similarity="gram") == pytest.approx(
        np.where(TOGETHER, 1.0, -1.0), abs=1e-6
    )


@pytest.mark.parametrize(
    ("side", "sketches", "words"),
    [
        (
            "reads",
            {"other": np.eye(2)},
            r"similarity=gram needs the gradient sketch of .*0\.q, and the probe has 1 oth",
        ),
        ("reads", {"model.layers.0.q": np.full((2, 2), np.inf)}, r"sketch of model\.layers\.0\.q is not finite"),
        ("unknown", {"model.layers.0.q": np.eye(2)}, r"whether model\.layers\.0\.q reads .*similarity=cosine"),
    ],
)
def test_what_cannot_be_compared_is_refused(side, sketches, words):
    with pytest.raises(PlanError, match=words):
        class_similarities([replace(matrix("0.q"), side=side)], probe(sketches), similarity="gram")


def test_a_cosine_needs_no_side():
    members = [replace(matrix(f"{block}.q"), side="unknown") for block in range(2)]
    sketches = {member.name: np.eye(2) for member in members}
    assert class_similarities(members, probe(sketches), similarity="cosine") == pytest.approx(np.ones((2, 2)))


def test_distances_are_of_logarithms_relative_to_the_largest():
    found = scaled_log_distances(np.array([1.0, 10.0, 10_000.0]))
    assert found == pytest.approx(np.array([[0, 0.25, 1], [0.25, 0, 0.75], [1, 0.75, 0]]))
    assert (scaled_log_distances(np.array([3.0, 3.0])) == 0).all()
    assert scaled_log_distances(np.array([])).shape == (0, 0)


@law
@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=8), st.floats(1e-2, 1e2))
def test_the_unit_of_the_column_is_irrelevant(values, unit):
    spread = np.ptp(np.log(values))
    if spread > 1e-3:
        scaled = scaled_log_distances(np.array(values) * unit)
        assert scaled == pytest.approx(scaled_log_distances(np.array(values)), abs=1e-9)
        assert scaled.max() == 1


def test_only_positive_finite_values_have_a_logarithm():
    typed = {"0.q": 1.0, "1.q": None, "2.q": 0.0, "3.q": -1.0, "4.q": float("inf"), "5.q": float("nan"), "6.q": 2.0}
    of = report(typed)
    names = [spectrum.matrix.name for spectrum in of.matrices]
    assert positive_values(of, names[:-1], column="snr") == {names[0]: 1.0}
    assert list(positive_values(of, reversed(names), column="snr")) == [names[0], names[-1]]


def test_a_matrix_or_column_that_the_report_lacks_is_named():
    with pytest.raises(PlanError, match=r"grouping\.column='alpha' is not in the report; its columns are snr"):
        positive_values(report({"0.q": 1.0}), ["model.layers.0.q"], column="alpha")
    with pytest.raises(PlanError, match=r"other is adapted but none of the 1 matrices of by hand"):
        positive_values(report({"0.q": 1.0}), ["other"], column="snr")


def test_halves_that_agree_and_halves_that_do_not():
    one, other = gaussian(4, 4, seed=1), gaussian(4, 4, seed=2)
    padded = {"same": 2 * one, "opposite": 0.5 * one, "apart": one + other, "one batch": one, "no half": one}
    sketches = {name: np.pad(half, (0, 4), constant_values=9.0).astype(np.float32) for name, half in padded.items()}
    halves = dict.fromkeys(("same", "opposite", "apart", "one batch", "no sketch"), one.astype(np.float32))
    found = split_half_agreement(probe(sketches, halves), [*sketches, "no sketch", "neither"])
    cosine = (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other)
    assert found == {
        "same": pytest.approx(1.0),
        "opposite": pytest.approx(-1.0),
        "apart": pytest.approx(cosine, abs=1e-6),
    }
