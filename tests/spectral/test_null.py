"""Oracle: typed spectra whose means and logarithms are worked out by hand, and the multiset of the entries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.spectral.decomposition import singular_values
from spectral_ft.spectral.metrics import COLUMNS, MetricOptions, spectrum_columns
from spectral_ft.spectral.null import FEWEST_FOR_Z, null_columns, shuffled
from tests.oracles import gaussian, law
from tests.spectral.spectra import with_spikes

OPTIONS = MetricOptions()


def compared(s: list[float], *draws: list[float]) -> tuple[dict[str, float | None], dict[str, str]]:
    shape = (len(s), len(s))
    observed = spectrum_columns(np.array(s), shape, OPTIONS)
    return null_columns(observed, [np.array(draw) for draw in draws], shape, OPTIONS)


@law
@given(st.integers(1, 9), st.integers(1, 9), st.text(max_size=20), st.integers(0, 30))
def test_shuffling_keeps_every_entry_and_the_shape(rows, cols, name, draw):
    weights = gaussian(rows, cols, seed=1)
    found = shuffled(weights, name, draw)
    assert found.shape == weights.shape
    np.testing.assert_array_equal(np.sort(found, axis=None), np.sort(weights, axis=None))


def test_the_order_is_that_of_the_checksum_of_the_name_and_the_draw():
    # CRC-32's published check value is that of these nine digits
    expected = np.arange(1000)
    np.random.default_rng((0xCBF43926, 3)).shuffle(expected)
    np.testing.assert_array_equal(shuffled(np.arange(1000).reshape(20, 50), "123456789", 3).ravel(), expected)


def test_the_order_depends_on_the_name_and_the_draw_and_on_nothing_else():
    first = gaussian(20, 30, seed=2)
    position = shuffled(np.arange(600).reshape(20, 30), "q", 0)
    np.random.default_rng().normal(size=10)
    np.testing.assert_array_equal(shuffled(first, "q", 0), first.ravel()[position])
    np.testing.assert_array_equal(shuffled(-first, "q", 0), -first.ravel()[position])
    for name, draw in (("q", 1), ("k", 0), ("", 0)):
        assert np.mean(shuffled(first, name, draw) == first.ravel()[position]) < 0.05
    assert np.mean(shuffled(first, "q", 0) == first) < 0.05


def test_entries_move_across_rows_and_columns():
    # every row and every column would keep its sum if only whole rows or columns moved
    weights = np.zeros((40, 40))
    weights[0] = 1
    found = shuffled(weights, "q", 0)
    assert found.sum(axis=1).max() < 6
    assert found.sum(axis=0).max() < 6


def test_the_bits_of_bf16_are_shuffled_as_their_values_are():
    bits = np.arange(0x3F00, 0x3F00 + 600, dtype=np.uint16).reshape(20, 30)
    values = (bits.astype(np.uint32) << 16).view(np.float32)
    found = shuffled(bits, "q", 4)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal((found.astype(np.uint32) << 16).view(np.float32), shuffled(values, "q", 4))


def test_the_weights_are_left_as_they_were_and_a_view_is_read_as_what_it_shows():
    weights = gaussian(6, 9, seed=3)
    before = weights.copy()
    np.testing.assert_array_equal(shuffled(weights.T, "q", 0), shuffled(before.T.copy(), "q", 0))
    np.testing.assert_array_equal(weights, before)


def test_means_and_logarithms_of_typed_spectra():
    columns, reasons = compared([6.0, 3.0, 2.0], [2.0, 1.0, 1.0], [4.0, 2.0, 1.0])
    assert columns["spectral_norm_null"] == pytest.approx(3)
    assert columns["spectral_norm_excess"] == pytest.approx(np.log(2))
    assert columns["condition_number_null"] == pytest.approx((2 + 4) / 2)
    assert columns["condition_number_excess"] == pytest.approx(0, abs=1e-12)
    assert columns["stable_rank_null"] == pytest.approx((6 / 4 + 21 / 16) / 2)
    assert columns["stable_rank_excess"] == pytest.approx(np.log(49 / 36 / ((6 / 4 + 21 / 16) / 2)))
    assert "spectral_norm_excess" not in reasons
    assert not [name for name in columns if name.endswith("_z")]


def test_deviations_of_eight_typed_spectra():
    # spectral norms 1, 2, ..., 8: mean 4.5, unbiased variance 6
    draws = [[float(k), 0.5] for k in range(1, 9)]
    columns, _ = compared([10.0, 0.5], *draws)
    assert columns["spectral_norm_null"] == pytest.approx(4.5)
    assert columns["spectral_norm_z"] == pytest.approx(5.5 / np.sqrt(6))
    below, _ = compared([2.0, 0.5], *draws)
    assert below["spectral_norm_z"] == pytest.approx(-2.5 / np.sqrt(6))


def test_deviations_need_eight_draws():
    draws = [[float(k), 0.5] for k in range(1, 9)]
    assert FEWEST_FOR_Z == 8
    assert "spectral_norm_z" not in compared([10.0, 0.5], *draws[:7])[0]


def test_every_metric_of_the_spectrum_is_compared_and_the_moments_which_no_shuffle_changes_are_not():
    columns, _ = compared([3.0, 2.0], *[[2.0, 1.0]] * 8)
    spectral = [name for name in COLUMNS if name != "snr_moment"]
    assert list(columns) == [f"{name}_{kind}" for name in spectral for kind in ("null", "excess", "z")]


def test_without_draws_there_are_no_columns():
    assert compared([3.0, 2.0]) == ({}, {})


def test_what_is_undefined_for_the_matrix_keeps_its_null_mean():
    columns, reasons = compared([3.0, 0.0], *[[2.0, 1.0]] * 8)
    why = "condition_number is undefined: rank deficient: 1 of 2 eigenvalues are zero"
    assert columns["condition_number_null"] == pytest.approx(2)
    for kind in ("excess", "z"):
        assert columns[f"condition_number_{kind}"] is None
        assert reasons[f"condition_number_{kind}"] == why


def test_what_is_undefined_for_some_shuffles_has_no_mean():
    columns, reasons = compared([3.0, 1.0], *[[2.0, 1.0]] * 6, [2.0, 0.0], [1.0, 0.0])
    for kind in ("null", "excess", "z"):
        assert columns[f"condition_number_{kind}"] is None
        assert reasons[f"condition_number_{kind}"] == "undefined for 2 of 8 shuffles"
    assert columns["spectral_norm_null"] is not None


def test_what_is_not_positive_has_no_logarithm():
    columns, reasons = compared([3.0, 1.0], [2.0, 1.0], [2.0, 0.0])
    assert columns["num_zero_null"] == 0.5
    assert columns["num_zero_excess"] is None
    assert reasons["num_zero_excess"] == "no logarithm of 0 over 0.5"


def test_what_no_shuffle_changes_has_no_deviation():
    # rounding alone makes them differ
    draws = [[5.0 * (1 + k * 1e-14), 1.0] for k in range(8)]
    columns, reasons = compared([5.0, 1.0], *draws)
    assert columns["spectral_norm_z"] is None
    assert reasons["spectral_norm_z"] == "does not vary over the shuffles"
    assert columns["spectral_norm_excess"] == pytest.approx(0, abs=1e-12)


def test_every_null_has_a_reason_and_no_other_has():
    weights = with_spikes(5, factor=2, shape=(60, 90))
    draws = [singular_values(shuffled(weights, "q", draw)) for draw in range(8)]
    observed = spectrum_columns(singular_values(weights), weights.shape, OPTIONS)
    columns, reasons = null_columns(observed, draws, weights.shape, OPTIONS)
    assert {name for name, value in columns.items() if value is None} == set(reasons)
    assert all(np.isfinite(value) for value in columns.values() if value is not None)
    # the spikes are gone from the shuffles, the norm of all entries is not
    assert columns["spectral_norm_excess"] > np.log(1.3)
    assert columns["spectral_norm_z"] > 5
    assert columns["frobenius_norm_excess"] == pytest.approx(0, abs=1e-12)
    assert reasons["frobenius_norm_z"] == "does not vary over the shuffles"


def test_the_options_of_the_observed_columns_hold_for_the_shuffles_too():
    s, draws = np.array([3.0, 1.0]), [np.array([2.0, 1.0]), np.array([2.5, 0.5])]
    cut = MetricOptions(eigenvalue_threshold=1.0)
    columns, _ = null_columns(spectrum_columns(s, (2, 2), cut), draws, (2, 2), cut)
    assert columns["num_zero_null"] == 1
    assert columns["num_zero_excess"] == 0
