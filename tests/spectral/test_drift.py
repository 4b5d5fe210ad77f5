"""The drift of one matrix; oracles: planted updates, numpy's SVD by definition, scipy, hypothesis invariance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from spectral_ft.spectral.decomposition import decompose
from spectral_ft.spectral.drift import SIZES, drift_columns
from spectral_ft.spectral.drift_settings import DriftSettings
from spectral_ft.spectral.metrics import COLUMNS, MetricOptions, metric_columns
from tests.oracles import gaussian, law, rotation

TOP = 3
LEFT, RIGHT = rotation(12, seed=1), rotation(9, seed=2)
VALUES = np.array([9.0, 7.0, 5.0, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5])
WEIGHTS = LEFT[:, :9] * VALUES @ RIGHT.T


def moved(before, after, *, top=TOP, threshold=0.5, columns=()):
    settings = DriftSettings(top=top, threshold=threshold, columns=list(columns))
    return drift_columns(before, after, settings=settings, options=MetricOptions())


def test_an_update_inside_the_top_subspace_turns_nothing():
    update = LEFT[:, :TOP] @ np.diag([0.5, 0.4, 0.3]) @ RIGHT[:, :TOP].T
    found, reasons = moved(WEIGHTS, WEIGHTS + update)
    assert reasons == {}
    for side in ("left", "right"):
        assert found[f"angle_{side}"] == pytest.approx(0, abs=1e-12)
        assert found[f"intruders_{side}"] == 0
        assert found[f"energy_{side}"] == pytest.approx(1)
    assert found["energy"] == pytest.approx(1)
    assert found["spectral_norm_update"] == pytest.approx(0.5)
    assert found["relative_spectral"] == pytest.approx(0.5 / 9)
    assert found["relative_frobenius"] == pytest.approx(np.sqrt(0.5) / np.sqrt(np.sum(VALUES**2)))
    assert found["stable_rank_update"] == pytest.approx(0.5 / 0.25)
    weights = np.array([0.5, 0.4, 0.3]) / 1.2
    assert found["effective_rank_update"] == pytest.approx(np.exp(-np.sum(weights * np.log(weights))))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_large_update_outside_the_columns_of_the_matrix_brings_as_many_intruders_as_it_has_ranks(rank):
    outside = LEFT[:, 9 : 9 + rank]  # orthogonal to every left singular vector of the matrix
    update = 100 * outside * np.arange(rank, 0, -1) @ rotation(9, seed=5)[:, :rank].T
    found, _ = moved(WEIGHTS, WEIGHTS + update)
    assert found["intruders_left"] == rank
    assert found["angle_left"] > 1.5
    assert found["energy_left"] == pytest.approx(0, abs=1e-20) == found["energy"]
    assert found["energy_right"] > 0


def test_the_right_side_is_the_left_one_of_the_transpose():
    after = WEIGHTS + 20 * np.outer(LEFT[:, 10], gaussian(9, 1, seed=4))
    plain, _ = moved(WEIGHTS, after)
    turned, _ = moved(WEIGHTS.T, after.T)
    assert plain["intruders_left"] == 1
    for name in ("angle", "mean_angle", "intruders", "energy"):
        assert plain[f"{name}_left"] == pytest.approx(turned[f"{name}_right"], abs=1e-12)
        assert plain[f"{name}_right"] == pytest.approx(turned[f"{name}_left"], abs=1e-12)


@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 10_000), st.floats(0.01, 3), st.integers(1, 5))
@law
def test_columns_are_by_definition(rows, cols, seed, size, top):
    before, update = gaussian(rows, cols, seed=seed), size * gaussian(rows, cols, seed=seed + 1)
    found, reasons = moved(before, before + update, top=top, threshold=0.7)
    k = min(top, rows, cols)
    (u, s, v), (u2, s2, v2) = (np.linalg.svd(w, full_matrices=False) for w in (before, before + update))
    assert reasons == {} and found["top"] == k and found["threshold"] == 0.7
    for side, one, other in (("left", u, u2), ("right", v.T, v2.T)):
        angles = subspace_angles(one[:, :k], other[:, :k])
        assert found[f"angle_{side}"] == pytest.approx(angles.max(), abs=1e-7)
        assert found[f"mean_angle_{side}"] == pytest.approx(angles.mean(), abs=1e-7)
        assert 0 <= found[f"mean_angle_{side}"] <= found[f"angle_{side}"] <= np.pi / 2
        assert found[f"intruders_{side}"] == (np.abs(one.T @ other[:, :k]).max(axis=0) < 0.7).sum()
    assert found["relative_frobenius"] == pytest.approx(np.linalg.norm(update) / np.linalg.norm(before))
    assert found["relative_spectral"] == pytest.approx(np.linalg.norm(update, 2) / s[0])
    for end, values in (("before", s), ("after", s2), ("update", np.linalg.svd(update)[1])):
        assert found[f"frobenius_norm_{end}"] == pytest.approx(np.sqrt(np.sum(values**2)))
        assert found[f"spectral_norm_{end}"] == pytest.approx(values[0])
        assert found[f"stable_rank_{end}"] == pytest.approx(np.sum(values**2) / values[0] ** 2)
        assert 1 <= found[f"effective_rank_{end}"] <= len(values) + 1e-9
    inside = u[:, :k].T @ update @ v[:k].T
    assert found["energy"] == pytest.approx(np.sum(inside**2) / np.sum(update**2))


@given(st.integers(0, 10_000), st.floats(0.1, 2), st.floats(0.01, 100))
@law
def test_neither_turning_both_nor_their_scale_matters(seed, size, scale):
    after = WEIGHTS + size * gaussian(12, 9, seed=seed)
    left, right = rotation(12, seed=seed + 1), rotation(9, seed=seed + 2)
    plain, _ = moved(WEIGHTS, after)
    turned, _ = moved(scale * left @ WEIGHTS @ right, scale * left @ after @ right)
    for name, value in plain.items():
        by = scale if "norm" in name else 1
        assert turned[name] == pytest.approx(by * value, rel=1e-7, abs=1e-7)


def test_metrics_of_a_report_are_set_side_by_side():
    before, after = gaussian(70, 120, seed=0), gaussian(70, 120, seed=1)
    found, reasons = moved(before, after, columns=COLUMNS)
    for end, weights in (("before", before), ("after", after)):
        expected, why = metric_columns(decompose(weights), weights.shape, MetricOptions())
        for name in COLUMNS:
            assert found[f"{name}_{end}"] == pytest.approx(expected[name], rel=1e-9, abs=1e-12), name
            assert reasons.get(f"{name}_{end}") == why.get(name)


def test_what_means_nothing_is_null_with_its_reason():
    zero = np.zeros_like(WEIGHTS)
    found, reasons = moved(WEIGHTS, WEIGHTS)
    assert (found["relative_frobenius"], found["angle_left"], found["intruders_left"]) == (0, pytest.approx(0), 0)
    assert found["energy"] is None and reasons["energy_left"] == "the update is zero"
    assert found["stable_rank_update"] is None and reasons["stable_rank_update"] == "all singular values are zero"
    assert found["spectral_norm_update"] == 0
    found, reasons = moved(zero, WEIGHTS)
    assert found["relative_spectral"] is None and reasons["relative_frobenius"] == "the matrix before is zero"
    assert found["angle_right"] is None and found["energy"] is None and found["top"] == 0
    assert found["frobenius_norm_after"] == pytest.approx(np.linalg.norm(VALUES))
    assert set(found) == set(moved(WEIGHTS, WEIGHTS)[0])


def test_a_top_subspace_is_no_larger_than_the_rank():
    low = LEFT[:, :2] @ np.diag([2.0, 1.0]) @ RIGHT[:, :2].T
    found, _ = moved(low, WEIGHTS)
    assert found["top"] == 2
    assert moved(WEIGHTS, WEIGHTS + 1, top=40)[0]["top"] == 9


def test_what_diverged_is_refused():
    after = WEIGHTS.copy()
    after[0, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 108 entries are NaN"):
        moved(WEIGHTS, after)


def test_every_size_is_said_of_all_three():
    found, _ = moved(WEIGHTS, WEIGHTS + 1)
    assert {f"{name}_{end}" for name in SIZES for end in ("before", "update", "after")} <= set(found)
