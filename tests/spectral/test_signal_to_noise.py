"""Oracle: spectra of a few typed values worked out by hand, and the published formula on numpy's singular values."""

import numpy as np
import pytest

from spectral_ft.spectral.decomposition import decompose, singular_values
from spectral_ft.spectral.eigenvalues import Undefined
from spectral_ft.spectral.signal_to_noise import snr, snr_moment, snr_noise_fraction
from tests.oracles import gaussian


def test_snr_of_five_typed_values():
    # quartiles 4 and 2, beta 1/4: tau = 2 / 1.349 * 1.5 = 2.22, so 10 + 4 + 3 against 2 + 1
    s = np.array([10.0, 4.0, 3.0, 2.0, 1.0])
    assert snr(s, (5, 20)) == pytest.approx(17 / 3 / 10)
    assert snr_noise_fraction(s, (5, 20)) == pytest.approx(2 / 5)


def test_the_threshold_of_snr_lies_where_the_formula_says_to_five_digits():
    # quartiles 4 and 2, beta 1/4: tau = 3 / 1.349 = 2.22387
    s = np.array([10, 9, 4, 2.2239, 2.2238, 2.1, 2, 1, 0.5])
    assert snr_noise_fraction(s, (9, 36)) == pytest.approx(5 / 9)


def test_the_quartiles_are_interpolated_linearly():
    # of 8, 4, 2, 1 they are 5 and 1.75: tau = 3.25 / 1.349 * 2 = 4.8 at beta 1, so 8 against 4 + 2 + 1
    s = np.array([8.0, 4.0, 2.0, 1.0])
    assert snr(s, (4, 4)) == pytest.approx(8 / 7 / 8)
    # 3.25 / 1.349 * 1.5 = 3.6 at beta 1/4
    assert snr(s, (4, 16)) == pytest.approx(12 / 3 / 8)


def test_snr_does_not_care_which_side_is_longer():
    s = np.array([10.0, 4.0, 3.0, 2.0, 1.0])
    assert snr(s, (5, 20)) == snr(s, (20, 5))


def test_an_empty_noise_set_counts_as_one():
    # no spread: tau = 0, and every value is signal
    s = np.array([2.0, 2.0, 2.0, 2.0])
    assert snr(s, (4, 4)) == pytest.approx(8 / 1 / 2)
    assert snr_noise_fraction(s, (4, 4)) == 0


@pytest.mark.parametrize("shape", [(64, 64), (48, 192), (160, 60)])
def test_snr_of_float32_weights_is_the_published_formula_on_numpys_singular_values(shape):
    weights = (0.02 * gaussian(*shape, seed=9)).astype(np.float32)
    s = np.linalg.svd(weights.astype(np.float64), compute_uv=False)
    sigma = (np.percentile(s, 75) - np.percentile(s, 25)) / 1.349
    tau = sigma * (1 + np.sqrt(min(shape) / max(shape)))
    noise = s[s <= tau].sum() if (s <= tau).any() else 1.0
    expected = s[s > tau].sum() / noise / s.max()
    assert snr(singular_values(weights), shape) == pytest.approx(expected, rel=1e-9)


def test_snr_without_any_noise_energy_is_undefined():
    with pytest.raises(Undefined, match="the noise singular values sum to zero"):
        snr(np.array([5.0, 0.0, 0.0, 0.0]), (4, 4))


def test_what_lies_on_the_threshold_is_noise():
    # no spread: tau = 0
    assert snr_noise_fraction(np.array([5.0, 0.0, 0.0, 0.0, 0.0]), (5, 5)) == pytest.approx(4 / 5)
    assert snr_noise_fraction(np.zeros(3), (3, 3)) == 1


def test_snr_of_a_zero_matrix_is_undefined():
    with pytest.raises(Undefined, match="all singular values are zero"):
        snr(np.zeros(4), (4, 4))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_moments_of_typed_entries(sign):
    # mean 3, unbiased variance (4 + 1 + 0 + 9) / 3
    found = decompose(sign * np.array([[1.0, 2.0], [3.0, 6.0]]))
    assert snr_moment(found.mean, found.std) == pytest.approx(sign * 3 / np.sqrt(14 / 3))


def test_equal_entries_have_no_ratio_of_moments():
    found = decompose(np.ones((3, 4)))
    with pytest.raises(Undefined, match="all entries are equal"):
        snr_moment(found.mean, found.std)
