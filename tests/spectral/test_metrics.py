"""Oracle: laws of scale and rotation, and matrices of which little is defined."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.spectral.calibrated_bulk import calibrated_bulk
from spectral_ft.spectral.decomposition import Decomposition, decompose, singular_values
from spectral_ft.spectral.metrics import COLUMNS, MetricOptions, metric_columns, spectrum_columns
from spectral_ft.spectral.power_law import power_law
from spectral_ft.spectral.tail import alpha_hill, alpha_hill_median, alpha_hill_peak
from tests.oracles import gaussian, law, rotation
from tests.spectral.spectra import from_eigenvalues, with_spikes

OPTIONS = MetricOptions()
SHAPE = (200, 400)

WITHOUT_UNITS = {
    "snr_moment", "snr_noise_fraction", "snr_mp", "alpha_hill", "alpha_hill_median", "alpha_hill_peak", "alpha_pl",
    "ks_distance", "num_spikes", "num_spikes_calibrated", "bulk_ks", "num_zero", "stable_rank", "effective_rank",
    "condition_number",
}  # fmt: skip
POWERS = {"snr": -1, "spectral_norm": 1, "frobenius_norm": 1, "noise_std": 1, "bulk_edge": 2, "x_min": 2}
"""Columns that change with a power of the scale of the weights."""
OTHERWISE = {"alpha_hat", "num_spikes_tw"}

BULK = {"num_spikes_calibrated", "bulk_edge", "bulk_ks", "noise_std", "snr_mp"}
POWER_LAW = {"alpha_pl", "x_min", "ks_distance", "alpha_hat"}
NEEDS_FIFTY = {"alpha_hill", "alpha_hill_median", "alpha_hill_peak", "num_spikes", "num_spikes_tw"} | BULK | POWER_LAW


@pytest.fixture(scope="module")
def unscaled() -> Decomposition:
    # three spikes, some zeros, and a mean that is not zero
    weights = with_spikes(3, factor=2) + 0.1
    weights[5:8] = weights[4]
    return decompose(weights)


def times(found: Decomposition, scale: float) -> Decomposition:
    return Decomposition(found.singular_values * scale, found.mean * scale, found.std * scale, found.precision)


def test_the_laws_of_scale_below_speak_of_every_column_once():
    assert sorted([*WITHOUT_UNITS, *POWERS, *OTHERWISE]) == sorted(COLUMNS)


@pytest.mark.parametrize("deficient", [False, True])
@law
@given(exponent=st.floats(-4, 4))
def test_the_scale_of_the_weights_changes_what_has_units_and_nothing_else(deficient, unscaled, exponent):
    found = unscaled if deficient else decompose(with_spikes(3, factor=2) + 0.1)
    scale = 10.0**exponent
    before, why_before = metric_columns(found, SHAPE, OPTIONS)
    after, why_after = metric_columns(times(found, scale), SHAPE, OPTIONS)
    assert why_after == why_before
    assert set(why_before) == ({"condition_number"} if deficient else set())
    assert 0 < before["snr_noise_fraction"] < 1  # an empty noise set would have no units
    for name in (WITHOUT_UNITS | set(POWERS)) - set(why_before):
        assert after[name] == pytest.approx(before[name] * scale ** POWERS.get(name, 0), rel=1e-9), name
    shift = 2 * np.log10(scale)
    assert after["alpha_hat"] == pytest.approx(before["alpha_hat"] + before["alpha_pl"] * shift, abs=1e-7)


@pytest.mark.parametrize("scale", [1e-4, 0.37, 1e4])
def test_scaled_weights_have_the_columns_of_their_scaled_spectrum(scale):
    weights = with_spikes(3, factor=2) + 0.1
    expected, _ = metric_columns(times(decompose(weights), scale), SHAPE, OPTIONS)
    found, _ = metric_columns(decompose(scale * weights), SHAPE, OPTIONS)
    assert found == pytest.approx(expected, rel=1e-8)


def test_powers_of_two_change_no_digit_of_what_has_no_units():
    found = decompose(with_spikes(3, factor=2))
    before, _ = metric_columns(found, SHAPE, OPTIONS)
    for exponent in (-60, -7, 60):
        after, _ = metric_columns(times(found, 2.0**exponent), SHAPE, OPTIONS)
        assert {name: after[name] for name in WITHOUT_UNITS} == {name: before[name] for name in WITHOUT_UNITS}


def test_the_counts_of_lora_ars_code_depend_on_the_scale():
    s = singular_values(with_spikes(20, factor=1.2))
    counts = [spectrum_columns(scale * s, SHAPE, OPTIONS)[0]["num_spikes_tw"] for scale in (1, 1e-4)]
    assert counts == [20, 0]


def test_rotations_change_no_column_of_the_spectrum():
    weights = with_spikes(3, factor=2)
    turned = rotation(200, seed=13) @ weights @ rotation(400, seed=14)
    before, _ = spectrum_columns(singular_values(weights), weights.shape, OPTIONS)
    after, _ = spectrum_columns(singular_values(turned), weights.shape, OPTIONS)
    assert after == pytest.approx(before, rel=1e-9)


def test_a_matrix_and_its_transpose_have_the_same_columns():
    weights = with_spikes(3, factor=2)
    expected, _ = metric_columns(decompose(weights), SHAPE, OPTIONS)
    found, _ = metric_columns(decompose(weights.T), SHAPE[::-1], OPTIONS)
    assert found == pytest.approx(expected, rel=1e-8)


def test_columns_stand_in_one_order_and_each_under_its_own_name(unscaled):
    columns, reasons = metric_columns(unscaled, SHAPE, OPTIONS)
    s = unscaled.singular_values
    assert tuple(columns) == COLUMNS
    assert len(set(COLUMNS)) == len(COLUMNS)
    assert set(reasons) == {"condition_number"}
    assert columns["spectral_norm"] == s[0]
    assert columns["num_zero"] == 3
    assert columns["snr_moment"] == unscaled.mean / unscaled.std
    assert {name: columns[name] for name in BULK} == calibrated_bulk(s, SHAPE)._asdict()
    assert {name: columns[name] for name in POWER_LAW} == power_law(s, SHAPE)._asdict()
    for metric in (alpha_hill, alpha_hill_median, alpha_hill_peak):
        assert columns[metric.__name__] == metric(s, SHAPE)


def test_the_columns_of_a_spectrum_are_those_of_a_matrix_but_the_moments(unscaled):
    columns, reasons = metric_columns(unscaled, SHAPE, OPTIONS)
    moment = columns.pop("snr_moment")
    assert moment == pytest.approx(0.1, rel=0.2)
    assert spectrum_columns(unscaled.singular_values, SHAPE, OPTIONS) == (columns, reasons)


def test_a_zero_matrix_is_null_with_a_reason_wherever_something_divides_by_its_scale():
    columns, reasons = metric_columns(decompose(np.zeros((60, 80))), (60, 80), OPTIONS)
    divides = NEEDS_FIFTY | {"snr", "stable_rank", "effective_rank"}
    assert {name for name, why in reasons.items() if why == "all singular values are zero"} == divides
    assert reasons["condition_number"] == "rank deficient: 60 of 60 eigenvalues are zero"
    assert reasons["snr_moment"] == "all entries are equal"
    assert {name for name, value in columns.items() if value is None} == divides | {"condition_number", "snr_moment"}
    assert {name: columns[name] for name in ("num_zero", "spectral_norm", "frobenius_norm")} == {
        "num_zero": 60, "spectral_norm": 0, "frobenius_norm": 0,
    }  # fmt: skip


def test_a_matrix_of_one_row_has_norms_and_ranks_and_no_bulk():
    columns, reasons = metric_columns(decompose(np.array([[3.0, 4.0, 12.0]])), (1, 3), OPTIONS)
    assert set(reasons) == NEEDS_FIFTY
    assert set(reasons.values()) == {"1 nonzero eigenvalues, fewer than 50"}
    assert columns["spectral_norm"] == columns["frobenius_norm"] == pytest.approx(13)
    assert columns["stable_rank"] == columns["effective_rank"] == columns["condition_number"] == 1


@pytest.mark.parametrize(("count", "undefined"), [(49, NEEDS_FIFTY), (50, set())])
def test_fifty_eigenvalues_are_enough(count, undefined):
    _, reasons = metric_columns(decompose(gaussian(count, 90, seed=1)), (count, 90), OPTIONS)
    assert set(reasons) == undefined


def test_a_rank_deficient_matrix_is_what_its_nonzero_part_is():
    noise = gaussian(60, 120, seed=2)
    weights = rotation(90, seed=3)[:, :60] @ noise
    columns, reasons = metric_columns(decompose(weights), (90, 120), OPTIONS)
    expected, _ = metric_columns(decompose(noise), (60, 120), OPTIONS)
    assert reasons == {"condition_number": "rank deficient: 30 of 90 eigenvalues are zero"}
    assert columns["num_zero"] == 30
    same = POWER_LAW | BULK | {"alpha_hill", "alpha_hill_median", "alpha_hill_peak", "spectral_norm", "frobenius_norm"}
    for name in same | {"stable_rank", "effective_rank"}:
        assert columns[name] == pytest.approx(expected[name], rel=1e-6), name


@law
@given(
    st.sampled_from([(1, 1), (1, 80), (49, 50), (55, 55), (60, 90), (120, 52)]),
    st.integers(0, 60),
    st.sampled_from([1e-150, 1e-20, 1e-3, 1, 1e20, 1e100]),
    st.sampled_from([0.0, 1.0, 100.0]),
)
def test_no_column_is_ever_nan_or_infinite_and_each_null_has_its_reason(shape, rank, scale, mean):
    rows, cols = shape
    weights = scale * (gaussian(rows, rank, seed=4) @ gaussian(rank, cols, seed=5) + mean)
    columns, reasons = metric_columns(decompose(weights), shape, OPTIONS)
    assert tuple(columns) == COLUMNS
    assert {name for name, value in columns.items() if value is None} == set(reasons)
    assert all(reasons.values())
    for name, value in columns.items():
        assert value is None or (isinstance(value, float) and np.isfinite(value)), name


def changed(options: MetricOptions, found: Decomposition) -> set[str]:
    before, after = (metric_columns(found, SHAPE, each)[0] for each in (OPTIONS, options))
    return {name for name in COLUMNS if before[name] != after[name]}


def test_the_level_of_the_edge_reaches_the_calibrated_bulk_alone(unscaled):
    options = MetricOptions(edge_level=0.99)
    columns, _ = metric_columns(unscaled, SHAPE, options)
    expected = calibrated_bulk(unscaled.singular_values, SHAPE, level=0.99)
    assert {name: columns[name] for name in BULK} == expected._asdict()
    assert {"bulk_edge"} <= changed(options, unscaled) <= BULK


def test_the_bins_of_the_histogram_reach_the_peak_alone(unscaled):
    options = MetricOptions(histogram_bins=7)
    columns, _ = metric_columns(unscaled, SHAPE, options)
    assert columns["alpha_hill_peak"] == alpha_hill_peak(unscaled.singular_values, SHAPE, bins=7)
    assert changed(options, unscaled) == {"alpha_hill_peak"}


def test_the_cut_of_the_eigenvalues_reaches_the_tails_and_the_count_of_zeros():
    # the peak of the histogram lies below the cut
    generator = np.random.default_rng(7)
    s = from_eigenvalues(np.append(generator.uniform(0.1, 0.12, size=100), 1 + generator.pareto(2, size=100)))
    found = Decomposition(s, 0.0, 1.0, "float64")
    options = MetricOptions(eigenvalue_threshold=float(s[100] ** 2))
    columns, _ = metric_columns(found, SHAPE, options)
    assert columns["num_zero"] == 100
    for metric in (alpha_hill, alpha_hill_median, alpha_hill_peak):
        assert columns[metric.__name__] == pytest.approx(metric(s[:100], (100, 100)))
    assert columns["alpha_pl"] == pytest.approx(power_law(s[:100], (100, 100)).alpha_pl)
    tails = {"alpha_hill", "alpha_hill_median", "alpha_hill_peak"}
    assert {"num_zero"} | tails <= changed(options, found) <= {"num_zero"} | tails | POWER_LAW


def test_all_entries_of_a_constant_matrix_are_equal():
    columns, reasons = metric_columns(decompose(np.full((60, 80), 0.5)), (60, 80), OPTIONS)
    assert columns["snr_moment"] is None
    assert reasons["snr_moment"] == "all entries are equal"
    assert columns["effective_rank"] == pytest.approx(1)
