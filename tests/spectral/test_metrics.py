"""Oracle: spectra of a few typed values worked out by hand, laws of scale, and samples of known parameters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.spectral import metrics
from spectral_ft.spectral.decomposition import singular_values
from tests.oracles import gaussian, law, rotation

IN_UNITS = {"snr": -1, "spectral_norm": 1, "frobenius_norm": 1}
"""Columns that change with the scale of the weights, and by which power of it; no other does."""


def geometric(count: int) -> np.ndarray:
    """Singular values whose eigenvalues are powers of 3/2."""
    return np.sqrt(1.5 ** np.arange(count, 0, -1))


def with_spikes(count: int, *, factor: float) -> np.ndarray:
    """A 200 x 400 Gaussian matrix plus orthogonal rank-one terms `factor` times above its largest singular value."""
    noise = gaussian(200, 400, seed=6)
    largest_of_noise = np.sqrt(200) + np.sqrt(400)
    left, right = rotation(200, seed=7)[:, :count], rotation(400, seed=8)[:, :count]
    return noise + factor * largest_of_noise * left @ right.T


def test_snr_of_five_typed_values():
    # quartiles 4 and 2, beta 1/4: tau = 2 / 1.349 * 1.5 = 2.22, so 10 + 4 + 3 against 2 + 1
    s = np.array([10.0, 4.0, 3.0, 2.0, 1.0])
    assert metrics.snr(s, (5, 20)) == pytest.approx(17 / 3 / 10)
    assert metrics.snr_noise_fraction(s, (5, 20)) == pytest.approx(2 / 5)


def test_the_threshold_of_snr_lies_where_the_formula_says_to_five_digits():
    # quartiles 4 and 2, beta 1/4: tau = 3 / 1.349 = 2.22387
    s = np.array([10, 9, 4, 2.2239, 2.2238, 2.1, 2, 1, 0.5])
    assert metrics.snr_noise_fraction(s, (9, 36)) == pytest.approx(5 / 9)


def test_snr_does_not_care_which_side_is_longer():
    s = np.array([10.0, 4.0, 3.0, 2.0, 1.0])
    assert metrics.snr(s, (5, 20)) == metrics.snr(s, (20, 5))


def test_an_empty_noise_set_counts_as_one():
    # no spread: tau = 0, and every value is signal
    s = np.array([2.0, 2.0, 2.0, 2.0])
    assert metrics.snr(s, (4, 4)) == pytest.approx(8 / 1 / 2)
    assert metrics.snr_noise_fraction(s, (4, 4)) == 0


@pytest.mark.parametrize("shape", [(64, 64), (48, 192), (160, 60)])
def test_snr_of_float32_weights_is_the_published_formula_on_numpys_singular_values(shape):
    weights = (0.02 * gaussian(*shape, seed=9)).astype(np.float32)
    s = np.linalg.svd(weights.astype(np.float64), compute_uv=False)
    sigma = (np.percentile(s, 75) - np.percentile(s, 25)) / 1.349
    tau = sigma * (1 + np.sqrt(min(shape) / max(shape)))
    noise = s[s <= tau].sum() if (s <= tau).any() else 1.0
    expected = s[s > tau].sum() / noise / s.max()
    assert metrics.snr(singular_values(weights), shape) == pytest.approx(expected, rel=1e-9)


def test_snr_without_any_noise_energy_is_undefined():
    with pytest.raises(metrics.Undefined, match="the noise singular values sum to zero"):
        metrics.snr(np.array([5.0, 0.0, 0.0, 0.0]), (4, 4))


@pytest.mark.parametrize(("count", "k"), [(50, 25), (51, 26)])
def test_alpha_hill_of_a_geometric_spectrum(count, k):
    # the logarithms of lambda_i over the threshold are ln 1.5 times 1, 2, ..., k
    expected = 1 + k / (np.log(1.5) * k * (k + 1) / 2)
    assert metrics.alpha_hill(geometric(count), (count, count)) == pytest.approx(expected)


@pytest.mark.parametrize("exponent", [2.0, 3.0, 4.5])
def test_alpha_hill_finds_the_exponent_of_pareto_samples(exponent):
    eigenvalues = 1 + np.random.default_rng(10).pareto(exponent - 1, size=20_000)
    found = metrics.alpha_hill(np.sqrt(np.sort(eigenvalues)[::-1]), (20_000, 20_000))
    assert found == pytest.approx(exponent, abs=5 * (exponent - 1) / np.sqrt(10_000))


def test_alpha_hill_leaves_zero_eigenvalues_out():
    with_zeros = np.concatenate([geometric(60)[:50], np.zeros(30)])
    assert metrics.alpha_hill(with_zeros, (80, 80)) == pytest.approx(metrics.alpha_hill(geometric(60)[:50], (50, 50)))


@pytest.mark.parametrize("metric", [metrics.alpha_hill, metrics.num_spikes])
def test_a_tail_of_fewer_than_50_eigenvalues_is_undefined(metric):
    with pytest.raises(metrics.Undefined, match="49 nonzero eigenvalues, fewer than 50"):
        metric(np.concatenate([np.linspace(2, 1, 49), [0.0]]), (50, 50))


def test_alpha_hill_of_a_constant_upper_half_is_undefined():
    with pytest.raises(metrics.Undefined, match="the upper half of the eigenvalues is constant"):
        metrics.alpha_hill(np.full(60, 3.0), (60, 60))


@pytest.mark.parametrize("shape", [(100, 100), (100, 300), (300, 100)])
def test_noise_has_hardly_a_spike(shape):
    counts = [metrics.num_spikes(singular_values(gaussian(*shape, seed=seed)), shape) for seed in range(20)]
    assert np.mean(counts) <= 0.5


@pytest.mark.parametrize("count", [1, 5, 12])
def test_planted_spikes_are_counted(count):
    assert metrics.num_spikes(singular_values(with_spikes(count, factor=2)), (200, 400)) == count


def test_many_spikes_hide_some_of_themselves():
    # the documented weakness of the mean eigenvalue as the variance
    assert metrics.num_spikes(singular_values(with_spikes(100, factor=1.3)), (200, 400)) < 100


def test_norms_and_ranks_of_typed_values():
    s = np.array([4.0, 3.0, 0.0])
    assert metrics.spectral_norm(s, (3, 3)) == 4
    assert metrics.frobenius_norm(s, (3, 3)) == pytest.approx(5)
    assert metrics.stable_rank(s, (3, 3)) == pytest.approx(25 / 16)
    assert metrics.effective_rank(s, (3, 3)) == pytest.approx((7 / 4) ** (4 / 7) * (7 / 3) ** (3 / 7))
    assert metrics.num_zero(s, (3, 3)) == 1


def test_the_condition_number_of_typed_values():
    assert metrics.condition_number(np.array([8.0, 3.0, 2.0]), (3, 3)) == 4


def test_equal_singular_values_have_full_rank():
    s = np.full(7, 0.3)
    assert metrics.effective_rank(s, (7, 9)) == pytest.approx(7)
    assert metrics.stable_rank(s, (7, 9)) == pytest.approx(7)


def test_a_matrix_of_rank_one_has_effective_rank_one():
    weights = np.outer(gaussian(300, 1, seed=11), gaussian(400, 1, seed=12))
    assert metrics.effective_rank(singular_values(weights), weights.shape) == pytest.approx(1, abs=1e-9)


def test_the_condition_number_of_a_deficient_matrix_is_undefined():
    with pytest.raises(metrics.Undefined, match="rank deficient: 2 of 4 eigenvalues are zero"):
        metrics.condition_number(np.array([8.0, 3.0, 1e-9, 0.0]), (4, 4))


def test_a_zero_matrix_is_null_with_a_reason_wherever_something_divides_by_its_scale():
    columns, reasons = metrics.metric_columns(np.zeros(60), (60, 80))
    undefined = {"snr", "alpha_hill", "num_spikes", "stable_rank", "effective_rank", "condition_number"}
    assert {name for name, value in columns.items() if value is None} == undefined
    assert {name for name, why in reasons.items() if why == "all singular values are zero"} == undefined - {
        "condition_number"
    }
    assert columns["num_zero"] == 60


def test_columns_are_named_after_their_functions_and_only_nulls_have_reasons():
    s = np.array([3.0, 2.0, 1.0])
    columns, reasons = metrics.metric_columns(s, (3, 3))
    assert list(columns) == [metric.__name__ for metric in metrics.METRICS]
    assert set(reasons) == {"alpha_hill", "num_spikes"}
    assert columns["condition_number"] == metrics.condition_number(s, (3, 3))


@law
@given(st.integers(-60, 60))
def test_scale_changes_three_columns_and_no_other(exponent):
    # powers of two are exact, so equality is too
    s = singular_values(with_spikes(3, factor=2))
    before, _ = metrics.metric_columns(s, (200, 400))
    after, _ = metrics.metric_columns(np.ldexp(s, exponent), (200, 400))
    for name, value in before.items():
        assert after[name] == pytest.approx(np.ldexp(value, IN_UNITS.get(name, 0) * exponent), rel=1e-14), name


def test_rotations_change_no_column():
    weights = with_spikes(3, factor=2)
    turned = rotation(200, seed=13) @ weights @ rotation(400, seed=14)
    before, _ = metrics.metric_columns(singular_values(weights), weights.shape)
    after, _ = metrics.metric_columns(singular_values(turned), weights.shape)
    assert after == pytest.approx(before, rel=1e-9)


@law
@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=30), st.integers(0, 50))
def test_ranks_lie_between_one_and_the_smaller_side(values, excess):
    s = np.sort(values)[::-1]
    for rank in (metrics.stable_rank, metrics.effective_rank):
        assert 1 - 1e-9 <= rank(s, (len(s), len(s) + excess)) <= len(s) + 1e-9
