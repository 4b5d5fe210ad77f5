"""Singular subspaces; oracles: planted vectors and angles, numpy's arccos by definition, scipy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from spectral_ft.spectral.subspaces import decomposed, energy_share, intruders, principal_angles
from tests.oracles import gaussian, law, rotation

SIZES = st.integers(1, 12)
SEEDS = st.integers(0, 10_000)


def span(n: int, k: int, *, seed: int) -> np.ndarray:
    return rotation(n, seed=seed)[:, :k]


@given(SIZES, SIZES, SEEDS)
@law
def test_a_matrix_is_the_product_of_its_parts(rows: int, cols: int, seed: int) -> None:
    weights = gaussian(rows, cols, seed=seed)
    left, values, right = decomposed(weights)
    m = min(rows, cols)
    assert (left.shape, values.shape, right.shape) == ((rows, m), (m,), (cols, m))
    np.testing.assert_allclose(left * values @ right.T, weights, atol=1e-12)
    for side in (left, right):
        np.testing.assert_allclose(side.T @ side, np.eye(m), atol=1e-12)
    assert (np.diff(values) <= 0).all()


def test_what_is_not_finite_is_counted() -> None:
    weights = gaussian(3, 4, seed=0)
    weights[0, 1], weights[2, 3] = np.nan, np.inf
    with pytest.raises(ValueError, match="2 of 12 entries are NaN or infinite"):
        decomposed(weights)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-3, 0.5, 1.5, np.pi / 2])
def test_a_planted_angle_is_found(angle: float) -> None:
    basis = rotation(6, seed=1)
    one = basis[:, :2]
    other = np.stack([np.cos(angle) * basis[:, 0] + np.sin(angle) * basis[:, 3], basis[:, 1]], axis=1)
    np.testing.assert_allclose(principal_angles(one, other), [angle, 0], atol=1e-14)


@given(st.integers(2, 12), SEEDS, st.data())
@law
def test_angles_are_by_definition_and_know_no_basis(n: int, seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    one, other = span(n, k, seed=seed), span(n, k, seed=seed + 1)
    found = principal_angles(one, other)
    assert found.shape == (k,) and (found >= 0).all() and (found <= np.pi / 2).all() and (np.diff(found) <= 0).all()
    by_definition = np.arccos(np.clip(np.linalg.svd(one.T @ other, compute_uv=False), 0, 1))[::-1]
    np.testing.assert_allclose(found, by_definition, atol=1e-6)  # arccos rounds small angles to 1e-8
    np.testing.assert_allclose(found, subspace_angles(one, other), atol=1e-7)
    turn, mix = rotation(n, seed=seed + 2), rotation(k, seed=seed + 3)
    np.testing.assert_allclose(principal_angles(turn @ one @ mix, turn @ other), found, atol=1e-7)
    np.testing.assert_allclose(principal_angles(other, one), found, atol=1e-7)


@pytest.mark.parametrize(("threshold", "expected"), [(0.59, [0, 0, 0]), (0.61, [0, 1, 0]), (0.81, [0, 1, 1])])
def test_an_intruder_is_far_from_each_old_vector(threshold: float, expected: list[int]) -> None:
    before = np.eye(5)[:, :3]
    after = np.array([[-1, 0, 0, 0, 0], [0.6, 0, 0, 0.8, 0], [0, 0.6, 0.8, 0, 0]]).T  # a sign counts for nothing
    assert intruders(before, after, threshold=threshold).tolist() == [bool(each) for each in expected]


@given(SIZES, SIZES, SEEDS, st.floats(0.05, 1))
@law
def test_intruders_are_by_definition_and_not_of_the_matrix_itself(
    rows: int, cols: int, seed: int, threshold: float
) -> None:
    before = decomposed(gaussian(rows, cols, seed=seed)).left
    after = decomposed(gaussian(rows, cols, seed=seed + 1)).left
    slow = [max(abs(float(x @ y)) for x in before.T) < threshold for y in after.T]
    assert intruders(before, after, threshold=threshold).tolist() == slow
    assert not intruders(before, before, threshold=threshold * (1 - 1e-12)).any()


@given(st.integers(2, 10), st.integers(2, 10), SEEDS, st.data())
@law
def test_energies_are_of_the_projection(rows: int, cols: int, seed: int, data: st.DataObject) -> None:
    update = gaussian(rows, cols, seed=seed)
    left = span(rows, data.draw(st.integers(1, rows)), seed=seed + 1)
    right = span(cols, data.draw(st.integers(1, cols)), seed=seed + 2)
    whole = np.sum(update**2)
    by_definition = {
        "left": np.sum((left @ left.T @ update) ** 2) / whole,
        "right": np.sum((update @ right @ right.T) ** 2) / whole,
        "both": np.sum((left @ left.T @ update @ right @ right.T) ** 2) / whole,
    }
    assert energy_share(update, left=left) == pytest.approx(by_definition["left"], abs=1e-12)
    assert energy_share(update, right=right) == pytest.approx(by_definition["right"], abs=1e-12)
    assert energy_share(update, left=left, right=right) == pytest.approx(by_definition["both"], abs=1e-12)
    rest = span(rows, rows, seed=seed + 1)[:, left.shape[1] :]
    assert energy_share(update, left=left) + energy_share(update, left=rest) == pytest.approx(1)
    assert 0 <= energy_share(7 * update, left=left, right=right) <= 1


def test_a_random_update_has_its_share_of_the_dimensions() -> None:
    shares = [
        energy_share(gaussian(20, 40, seed=s), left=np.eye(20)[:, :5], right=np.eye(40)[:, :8]) for s in range(60)
    ]
    assert np.mean(shares) == pytest.approx(5 / 20 * 8 / 40, rel=0.1)
