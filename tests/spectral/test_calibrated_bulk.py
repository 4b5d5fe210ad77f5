"""Oracle: Gaussian noise of a known deviation, spikes planted in it, and spectra that are no noise."""

import numpy as np
import pytest

from spectral_ft.spectral.calibrated_bulk import CalibratedBulk, calibrated_bulk
from spectral_ft.spectral.decomposition import singular_values
from spectral_ft.spectral.eigenvalues import Undefined
from spectral_ft.spectral.marchenko_pastur import largest_eigenvalue
from tests.oracles import gaussian, rotation
from tests.spectral.spectra import with_spikes

WIDE = (384, 1024)


def of(weights: np.ndarray, *, level: float = 0.95) -> CalibratedBulk:
    return calibrated_bulk(singular_values(weights), weights.shape, level=level)


@pytest.mark.parametrize("factor", [1.3, 2, 20])
@pytest.mark.parametrize("count", [1, 38, 90])
def test_planted_spikes_are_counted(count, factor):
    found = of(with_spikes(count, factor=factor, shape=WIDE))
    assert found.num_spikes_calibrated in {count, count + 1}
    assert found.noise_std == pytest.approx(1, rel=0.015)


@pytest.mark.parametrize("shape", [WIDE, (300, 300), (500, 100)])
@pytest.mark.parametrize("std", [1, 0.02])
def test_the_deviation_of_noise_is_found(shape, std):
    assert of(std * gaussian(*shape, seed=1)).noise_std == pytest.approx(std, rel=0.01)


def test_the_deviation_of_noise_is_found_under_spikes():
    assert of(0.02 * with_spikes(38, factor=2, shape=WIDE)).noise_std == pytest.approx(0.02, rel=0.01)


def test_the_deviation_is_that_of_the_lower_three_quarters():
    s = singular_values(gaussian(200, 400, seed=10))
    found = calibrated_bulk(s, (200, 400))
    upper = np.append(np.linspace(s[0], s[0] * 0.99, 50), s[50:])
    assert calibrated_bulk(upper, (200, 400)).noise_std == found.noise_std
    assert calibrated_bulk(np.append(s[:51], 0.999 * s[51:]), (200, 400)).noise_std < 0.9995 * found.noise_std
    lower = np.concatenate([s[:50], [s[49]], s[51:]])
    assert calibrated_bulk(lower, (200, 400)).noise_std > found.noise_std


def test_the_edge_of_noise_is_johnstones():
    found = of(gaussian(*WIDE, seed=2))
    assert found.bulk_edge == pytest.approx(largest_eigenvalue(384, 1024, 0.95) * found.noise_std**2, rel=1e-12)
    assert found.bulk_edge == pytest.approx((np.sqrt(384) + np.sqrt(1024)) ** 2, rel=0.02)


def test_noise_exceeds_its_edge_as_often_as_the_level_says():
    spectra = [np.linalg.svd(gaussian(100, 300, seed=seed), compute_uv=False) for seed in range(200)]
    rates = {
        level: np.mean([calibrated_bulk(s, (100, 300), level=level).num_spikes_calibrated > 0 for s in spectra])
        for level in (0.95, 0.99)
    }
    assert 0.03 <= rates[0.95] <= 0.09
    assert 0 < rates[0.99] <= 0.03


@pytest.mark.parametrize("level", [0.95, 0.99])
@pytest.mark.parametrize("count", [0, 3, 40, 100])
def test_the_columns_agree_with_each_other(count, level):
    weights = with_spikes(count, factor=1.4)
    s = singular_values(weights)
    found = calibrated_bulk(s, weights.shape, level=level)
    above = s**2 > found.bulk_edge
    assert found.num_spikes_calibrated == np.count_nonzero(above)
    assert found.snr_mp == pytest.approx(s[above].sum() / s[~above].sum(), rel=1e-12)
    assert 0 <= found.bulk_ks <= 1


def test_one_spike_after_the_other_is_set_aside():
    # sixty strong ones are 30 % of the spectrum and lift the first edge above the five weak ones
    edge = np.sqrt(200) + np.sqrt(400)
    strengths = edge * np.append(np.full(60, 20.0), np.full(5, 1.25))
    left, right = rotation(200, seed=4)[:, :65], rotation(400, seed=5)[:, :65]
    weights = gaussian(200, 400, seed=3) + left * strengths @ right.T
    s = singular_values(weights)
    first = mean_of_lowest(s**2, 0.75) / mean_of_lowest(singular_values(gaussian(200, 400, seed=9)) ** 2, 0.75)
    assert s[64] ** 2 < first * largest_eigenvalue(200, 400, 0.95)
    assert calibrated_bulk(s, (200, 400)).num_spikes_calibrated == 65


def mean_of_lowest(eigenvalues: np.ndarray, share: float) -> float:
    return float(np.sort(eigenvalues)[: int(share * len(eigenvalues))].mean())


@pytest.mark.parametrize("shape", [WIDE, (256, 256), (700, 200)])
def test_noise_is_near_to_marchenko_pasturs_law_and_two_clusters_are_not(shape):
    assert of(gaussian(*shape, seed=6)).bulk_ks < 0.02
    # eigenvalues at two ends and none between
    half = min(shape) // 2
    apart = np.append(np.linspace(2.1, 2, half), np.linspace(1.1, 1, half))
    assert calibrated_bulk(apart, shape).bulk_ks > 0.2


def test_the_distance_is_what_scipys_test_finds():
    from scipy.stats import kstest

    from spectral_ft.spectral.marchenko_pastur import distribution

    s = singular_values(with_spikes(20, factor=2))
    found = calibrated_bulk(s, (200, 400))
    rows, cols = 180, 380
    bulk = s[20:] ** 2 / (found.noise_std**2 * cols)
    expected = kstest(bulk, lambda x: distribution(x, rows / cols)).statistic
    assert found.num_spikes_calibrated == 20
    assert found.bulk_ks == pytest.approx(expected, abs=1e-12)


def test_it_does_not_matter_which_side_is_longer():
    s = singular_values(with_spikes(3, factor=2))
    assert calibrated_bulk(s, (200, 400)) == calibrated_bulk(s, (400, 200))


def test_zero_eigenvalues_are_dropped():
    s = singular_values(with_spikes(3, factor=2))
    assert calibrated_bulk(np.append(s, np.zeros(50)), (250, 400)) == calibrated_bulk(s, (200, 400))


@pytest.mark.parametrize("scale", [1e-4, 0.3, 1e4])
def test_only_the_edge_and_the_deviation_have_units(scale):
    s = singular_values(with_spikes(7, factor=1.5))
    before, after = calibrated_bulk(s, (200, 400)), calibrated_bulk(scale * s, (200, 400))
    assert after == pytest.approx(
        before._replace(bulk_edge=scale**2 * before.bulk_edge, noise_std=scale * before.noise_std), rel=1e-10
    )


def test_fewer_than_50_eigenvalues_have_no_bulk():
    with pytest.raises(Undefined, match="49 nonzero eigenvalues, fewer than 50"):
        calibrated_bulk(np.append(np.linspace(2, 1, 49), 0.0), (50, 50))


def test_spikes_that_leave_fewer_than_50_have_no_bulk():
    assert of(with_spikes(10, factor=3, shape=(60, 80))).num_spikes_calibrated == 10
    with pytest.raises(Undefined, match="49 eigenvalues are left below 11 spikes, fewer than 50"):
        of(with_spikes(11, factor=3, shape=(60, 80)))
