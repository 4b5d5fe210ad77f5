"""Oracle: quadrature of the density, the quarter-circle law, values worked by hand, and simulated noise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from spectral_ft.spectral.marchenko_pastur import (
    density,
    distribution,
    largest_eigenvalue,
    mean_below,
    quantile,
    support,
)
from tests.oracles import gaussian, law

RATIOS = [1.0, 0.9, 0.5, 0.25, 0.05, 0.001]


def integral(power: int, x: float, beta: float) -> float:
    """Of `t^power` times the density up to x, over the singular value, in which no end is singular."""
    low, _ = support(beta)
    return quad(
        lambda s: 2 * s * s ** (2 * power) * float(density(np.float64(s * s), beta)),
        np.sqrt(low),
        np.sqrt(x),
        limit=300,
    )[0]


def inside(share: float, beta: float) -> float:
    low, high = support(beta)
    return low + share * (high - low)


@pytest.mark.parametrize("beta", RATIOS)
def test_the_density_has_mass_one_and_mean_one_and_variance_beta(beta):
    _, high = support(beta)
    assert integral(0, high, beta) == pytest.approx(1, abs=1e-7)
    assert integral(1, high, beta) == pytest.approx(1, abs=1e-7)
    assert integral(2, high, beta) == pytest.approx(1 + beta, abs=1e-7)


def test_the_density_is_zero_outside_of_its_support():
    low, high = support(0.3)
    assert (density(np.array([0.5 * low, low * 0.999, high * 1.001, 9 * high]), 0.3) == 0).all()
    assert (density(np.array([low * 1.001, 1, high * 0.999]), 0.3) > 0).all()


@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("beta", RATIOS)
def test_the_distribution_is_the_integral_of_the_density(beta, share):
    x = inside(share, beta)
    assert float(distribution(np.float64(x), beta)) == pytest.approx(integral(0, x, beta), abs=1e-8)
    assert mean_below(x, beta) == pytest.approx(integral(1, x, beta), abs=1e-8)


@pytest.mark.parametrize("beta", RATIOS)
def test_all_mass_lies_within_the_support(beta):
    low, high = support(beta)
    outside = distribution(np.array([low / 2, low, high, 2 * high]), beta)
    np.testing.assert_allclose(outside, [0, 0, 1, 1], atol=2e-6)
    assert [mean_below(x, beta) for x in (low / 2, high, 2 * high)] == pytest.approx([0, 1, 1], abs=1e-7)


@law
@given(st.floats(0.001, 1), st.lists(st.floats(0, 1), min_size=2, max_size=10))
def test_the_distribution_and_the_mean_below_grow(beta, shares):
    x = np.array([inside(share, beta) for share in sorted(shares)])
    assert (np.diff(distribution(x, beta)) >= -2e-6).all()
    assert (np.diff([mean_below(value, beta) for value in x]) >= -1e-12).all()


@law
@given(st.floats(0.001, 1), st.floats(0.01, 0.99))
def test_the_quantile_inverts_the_distribution(beta, probability):
    x = quantile(probability, beta)
    assert float(distribution(np.float64(x), beta)) == pytest.approx(probability, abs=1e-9)


@law
@given(st.floats(0.001, 1), st.floats(0, 1))
def test_the_quantile_never_leaves_the_support(beta, probability):
    low, high = support(beta)
    x = quantile(probability, beta)
    assert low - 1e-9 <= x <= high + 1e-9
    assert float(distribution(np.float64(x), beta)) == pytest.approx(probability, abs=2e-6)


@pytest.mark.parametrize("s", [0.0, 0.1, 0.5, 1.0, 1.5, 1.99, 2.0])
def test_square_noise_follows_the_quarter_circle_law(s):
    # the density of the singular values is sqrt(4 - s^2) / pi on [0, 2]
    expected = (s * np.sqrt(4 - s**2) / 2 + 2 * np.arcsin(s / 2)) / np.pi
    assert float(distribution(np.float64(s**2), 1.0)) == pytest.approx(expected, abs=1e-12)
    if s:
        assert 2 * s * float(density(np.float64(s**2), 1.0)) == pytest.approx(np.sqrt(4 - s**2) / np.pi, abs=1e-12)


@pytest.mark.parametrize(("beta", "spread"), [(1, 0.874), (1 / 2, 0.588), (1 / 3, 0.475), (1 / 4, 0.409)])
def test_interquartile_ranges_of_the_singular_values(beta, spread):
    assert np.sqrt(quantile(0.75, beta)) - np.sqrt(quantile(0.25, beta)) == pytest.approx(spread, abs=5e-4)


@pytest.mark.parametrize(("m", "n"), [(300, 300), (200, 800)])
def test_eigenvalues_of_simulated_noise_follow_the_law(m, n):
    x = np.linalg.svd(gaussian(m, n, seed=1), compute_uv=False)[::-1] ** 2 / n
    share = (np.arange(m) + 0.5) / m
    assert np.abs(distribution(x, m / n) - share).max() < 0.015
    assert quantile(0.5, m / n) == pytest.approx(np.median(x), rel=0.03)


def test_the_largest_eigenvalue_by_hand():
    # m = n = 1: a = b = sqrt(1/2), so (a + b)^2 = 2 and (a + b) (1/a + 1/b)^(1/3) = 2^(1/2) 2^(1/2) = 2
    assert largest_eigenvalue(1, 1, 0.95) == pytest.approx(2 + 2 * 0.9793)
    assert largest_eigenvalue(1, 1, 0.99) == pytest.approx(2 + 2 * 2.0234)
    # m = 50, n = 200: a = 14.12445, b = 7.03562, (a + b)^2 = 447.7487, 1/a + 1/b = 0.212933, its root 0.597146
    assert largest_eigenvalue(50, 200, 0.95) == pytest.approx(447.7487 + 0.9793 * 21.16007 * 0.597146, rel=1e-5)


def test_the_largest_eigenvalue_of_simulated_noise_stays_below_as_often_as_it_says():
    largest = np.array([np.linalg.norm(gaussian(40, 100, seed=seed), 2) ** 2 for seed in range(1000)])
    assert np.mean(largest <= largest_eigenvalue(40, 100, 0.95)) == pytest.approx(0.95, abs=0.02)
    assert np.mean(largest <= largest_eigenvalue(40, 100, 0.99)) == pytest.approx(0.99, abs=0.008)
