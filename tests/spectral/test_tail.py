"""Oracle: geometric spectra summed by hand, Marchenko-Pastur's law by quadrature, Pareto samples, plain loops."""

import numpy as np
import pytest
from scipy.integrate import quad

from spectral_ft.spectral.decomposition import singular_values
from spectral_ft.spectral.eigenvalues import Undefined
from spectral_ft.spectral.tail import alpha_hill, alpha_hill_median, alpha_hill_peak
from tests.oracles import gaussian
from tests.spectral.spectra import from_eigenvalues, geometric, shape_of

ALL = pytest.mark.parametrize("metric", [alpha_hill, alpha_hill_median, alpha_hill_peak])


@pytest.mark.parametrize(("count", "k"), [(50, 25), (51, 26)])
def test_alpha_hill_of_a_geometric_spectrum(count, k):
    # the logarithms of lambda_i over the threshold are ln 1.5 times 1, 2, ..., k
    expected = 1 + k / (np.log(1.5) * k * (k + 1) / 2)
    assert alpha_hill(geometric(count), (count, count)) == pytest.approx(expected)


@pytest.mark.parametrize(("count", "k"), [(50, 25), (51, 26)])
def test_alpha_hill_median_of_a_geometric_spectrum(count, k):
    # the threshold is the tail's first member: ln 1.5 times 0, 1, ..., k - 1
    expected = 1 + k / (np.log(1.5) * k * (k - 1) / 2)
    assert alpha_hill_median(geometric(count), (count, count)) == pytest.approx(expected)


@pytest.mark.parametrize("metric", [alpha_hill, alpha_hill_median])
@pytest.mark.parametrize(("m", "n"), [(1024, 1024), (512, 1024), (256, 1024)])
def test_hill_exponents_of_noise_are_those_of_marchenko_pasturs_law(metric, m, n):
    # over the singular value s, whose density is sqrt((b^2 - s^2) (s^2 - a^2)) / (pi beta s) on [a, b]
    beta = m / n
    low, high = 1 - np.sqrt(beta), 1 + np.sqrt(beta)

    def mass(s: float) -> float:
        return np.sqrt((high**2 - s**2) * (s**2 - low**2)) / (np.pi * beta * s)

    s = np.linalg.svd(gaussian(m, n, seed=1), compute_uv=False)
    median = np.median(s) / np.sqrt(n)
    assert quad(mass, median, high)[0] == pytest.approx(0.5, abs=0.005)
    mean_log = quad(lambda s: 2 * np.log(s / median) * mass(s), median, high)[0] / 0.5
    assert metric(s, (m, n)) == pytest.approx(1 + 1 / mean_log, rel=0.02)


@pytest.mark.parametrize("metric", [alpha_hill, alpha_hill_median])
@pytest.mark.parametrize("exponent", [2.0, 3.0, 4.5])
def test_the_exponent_of_pareto_samples_is_found(metric, exponent):
    eigenvalues = 1 + np.random.default_rng(10).pareto(exponent - 1, size=20_000)
    found = metric(from_eigenvalues(eigenvalues), (20_000, 20_000))
    assert found == pytest.approx(exponent, abs=5 * (exponent - 1) / np.sqrt(10_000))


@ALL
def test_zero_eigenvalues_are_left_out(metric):
    s = singular_values(gaussian(60, 90, seed=2))
    assert metric(np.append(s, np.zeros(30)), (90, 90)) == metric(s, (60, 90))


@ALL
def test_an_absolute_threshold_leaves_out_what_is_not_above_it(metric):
    s = np.linspace(2, 0.5, 100)
    found = metric(s, (100, 100), threshold=float(s[80] ** 2))
    assert found == pytest.approx(metric(s[:80], (80, 80)))
    assert found != pytest.approx(metric(s, (100, 100)), rel=1e-3)


@ALL
def test_a_tail_of_fewer_than_50_eigenvalues_is_undefined(metric):
    with pytest.raises(Undefined, match="49 nonzero eigenvalues, fewer than 50"):
        metric(np.append(np.linspace(2, 1, 49), 0.0), (50, 50))
    with pytest.raises(Undefined, match="20 nonzero eigenvalues, fewer than 50"):
        metric(np.linspace(2, 1, 60), (60, 60), threshold=float(np.linspace(2, 1, 60)[20] ** 2))


@pytest.mark.parametrize("metric", [alpha_hill, alpha_hill_median])
def test_a_constant_upper_half_is_undefined(metric):
    for s in (np.full(60, 3.0), np.append(np.full(40, 0.1), np.linspace(0.09, 0.01, 20)), np.ones(60) + 1e-16):
        with pytest.raises(Undefined, match="the upper half of the eigenvalues is constant"):
            metric(s, (60, 60))


def test_an_orthogonal_matrix_has_no_tail():
    s = singular_values(np.linalg.qr(gaussian(100, 100, seed=3))[0])
    for metric in (alpha_hill, alpha_hill_median):
        with pytest.raises(Undefined, match="the upper half of the eigenvalues is constant"):
            metric(s, (100, 100))


def peak_by_a_loop(s: np.ndarray, bins: int) -> tuple[float, float, float]:
    """The exponent, its threshold and the peak, from the words of the rule."""
    eigenvalues = np.sort(s**2)
    counts, edges = np.histogram(np.log10(eigenvalues), bins)
    peak = 10 ** edges[np.argmax(counts)]
    best = (np.inf, 0.0, 0.0)
    for start, x_min in enumerate(eigenvalues[:-1]):
        if 0.95 * peak <= x_min <= 1.5 * peak:
            tail = eigenvalues[start:]
            alpha = 1 + len(tail) / np.sum(np.log(tail / x_min))
            share = np.arange(len(tail)) / len(tail)
            distance = np.max(np.abs(1 - (tail / x_min) ** (1 - alpha) - share))
            best = min(best, (distance, alpha, x_min))
    return best[1], best[2], peak


@pytest.mark.parametrize("bins", [100, 17])
@pytest.mark.parametrize("spectrum", ["noise", "pareto", "lognormal"])
@pytest.mark.parametrize("scale", [1, 0.013])
def test_the_tail_above_the_peak_is_what_a_loop_finds(spectrum, bins, scale):
    generator = np.random.default_rng(4)
    s = (
        scale
        * {
            "noise": singular_values(gaussian(150, 400, seed=5)),
            "pareto": from_eigenvalues(1 + generator.pareto(2, size=300)),
            "lognormal": from_eigenvalues(np.exp(generator.normal(size=300))),
        }[spectrum]
    )
    alpha, x_min, peak = peak_by_a_loop(s, bins)
    found = alpha_hill_peak(s, shape_of(s), bins=bins)
    assert found == pytest.approx(alpha, rel=1e-9)
    tail = s[s**2 >= x_min * (1 - 1e-12)] ** 2
    assert 0.95 * peak <= x_min <= 1.5 * peak
    assert found == pytest.approx(1 + len(tail) / np.log(tail / x_min).sum())


def test_a_peak_at_the_top_leaves_no_threshold():
    # only the largest eigenvalues lie within the window, and they are all equal
    s = from_eigenvalues(np.append(np.full(60, 100.0), np.linspace(1, 2, 30)))
    with pytest.raises(Undefined, match="no threshold leaves a tail whose eigenvalues differ"):
        alpha_hill_peak(s, shape_of(s))
