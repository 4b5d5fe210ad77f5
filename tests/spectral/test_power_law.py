"""Oracle: Clauset's procedure as a loop, and samples of a known exponent above a known threshold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.spectral import power_law as module
from spectral_ft.spectral.decomposition import singular_values
from spectral_ft.spectral.eigenvalues import Undefined
from spectral_ft.spectral.power_law import best_fit, power_law
from tests.oracles import gaussian, law, rotation
from tests.spectral.spectra import from_eigenvalues, shape_of, with_spikes


def by_a_loop(eigenvalues: np.ndarray, thresholds: np.ndarray) -> tuple[float, float, float]:
    """Exponent, threshold and distance: section 3.1 for the exponent, 3.3 for the threshold."""
    best = (np.inf, 0.0, 0.0)
    for x_min in thresholds:
        tail = np.sort(eigenvalues[eigenvalues >= x_min])
        alpha = 1 + len(tail) / sum(np.log(x / x_min) for x in tail)
        distance = max(abs(i / len(tail) - (1 - (x / x_min) ** (1 - alpha))) for i, x in enumerate(tail))
        if distance < best[0]:
            best = (distance, alpha, x_min)
    return best[1], best[2], best[0]


def spectra() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    return {
        "noise": singular_values(gaussian(80, 120, seed=2)) ** 2,
        "spikes": singular_values(with_spikes(5, factor=2, shape=(70, 140))) ** 2,
        "pareto": 1 + generator.pareto(1.5, size=90),
        "lognormal": 1e-6 * np.exp(2 * generator.normal(size=60)),
        "uniform": generator.uniform(1, 2, size=75),
        "each three times": np.repeat(1 + generator.pareto(2, size=30), 3),
        "the largest twice": np.append(1 + generator.pareto(2, size=60), [50.0, 50.0]),
    }


@pytest.mark.parametrize("name", spectra())
def test_the_fit_is_what_a_loop_finds(name):
    eigenvalues = np.sort(spectra()[name])
    s = from_eigenvalues(eigenvalues)
    eigenvalues = np.sort(s**2)
    alpha, x_min, distance = by_a_loop(eigenvalues, np.unique(eigenvalues)[:-1])
    found = power_law(s, shape_of(s))
    assert found.alpha_pl == pytest.approx(alpha, rel=1e-12)
    assert found.x_min == pytest.approx(x_min, rel=1e-14)
    assert found.ks_distance == pytest.approx(distance, abs=1e-12)
    assert found.alpha_hat == pytest.approx(alpha * np.log10(eigenvalues.max()), rel=1e-12)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@law
@given(st.lists(st.floats(0.01, 100).map(lambda value: round(value, 6)), min_size=50, max_size=60, unique=True))
def test_the_fit_of_any_spectrum_is_what_a_loop_finds(values):
    s = from_eigenvalues(np.array(values))
    eigenvalues = np.sort(s**2)
    alpha, x_min, distance = by_a_loop(eigenvalues, eigenvalues[:-1])
    found = power_law(s, shape_of(s))
    assert found.ks_distance == pytest.approx(distance, abs=1e-9)
    if found.x_min == pytest.approx(x_min, rel=1e-14):  # two thresholds may fit equally well
        assert found.alpha_pl == pytest.approx(alpha, rel=1e-6)


@pytest.mark.parametrize("exponent", [2.5, 3.5])
def test_the_exponent_and_the_threshold_of_pareto_samples_above_a_flat_body_are_found(exponent):
    generator = np.random.default_rng(0)
    body, tail = generator.uniform(0.01, 2, size=1000), 2 * (1 + generator.pareto(exponent - 1, size=2000))
    found = power_law(from_eigenvalues(np.append(body, tail)), (3000, 3000))
    assert found.alpha_pl == pytest.approx(exponent, abs=5 * (exponent - 1) / np.sqrt(2000))
    assert 1.9 < found.x_min < 3
    assert found.ks_distance < 0.03


def test_the_distance_tells_a_power_law_from_a_spectrum_that_is_none():
    pareto = from_eigenvalues(1 + np.random.default_rng(3).pareto(2, size=500))
    bounded = np.sqrt(np.concatenate([np.linspace(1, 1.1, 250), np.linspace(2, 2.1, 250)]))[::-1]
    assert power_law(pareto, shape_of(pareto)).ks_distance < 0.04
    assert power_law(bounded, shape_of(bounded)).ks_distance > 0.15


@pytest.mark.parametrize(("first", "last"), [(0, 10), (20, 40), (33, 34), (50, 500)])
def test_only_the_thresholds_of_the_window_are_tried(first, last):
    eigenvalues = np.sort(spectra()["pareto"])
    alpha, x_min, distance = by_a_loop(eigenvalues, eigenvalues[:-1][first:last])
    found = best_fit(eigenvalues, first=first, last=last)
    assert found.start == list(eigenvalues).index(x_min)
    assert (found.alpha, found.distance) == (pytest.approx(alpha, rel=1e-12), pytest.approx(distance, abs=1e-12))


@pytest.mark.parametrize(("first", "last"), [(5, 5), (89, 90), (90, 90)])
def test_a_window_without_a_threshold_is_undefined(first, last):
    with pytest.raises(Undefined, match="no threshold leaves a tail whose eigenvalues differ"):
        best_fit(np.sort(spectra()["pareto"]), first=first, last=last)


@pytest.mark.parametrize("block_entries", [1, 50, 1000])
@pytest.mark.parametrize("name", ["noise", "each three times"])
def test_the_size_of_the_blocks_changes_nothing(name, block_entries, monkeypatch):
    s = from_eigenvalues(spectra()[name])
    expected = power_law(s, shape_of(s))
    monkeypatch.setattr(module, "BLOCK_ENTRIES", block_entries)
    assert power_law(s, shape_of(s)) == expected


@pytest.mark.parametrize("value", [1.0, 0.1, 3e-7])
def test_equal_eigenvalues_are_undefined(value):
    with pytest.raises(Undefined, match="no threshold leaves a tail whose eigenvalues differ"):
        power_law(np.full(60, value), (60, 60))


def test_a_tail_of_equal_eigenvalues_is_never_chosen():
    # above the lower forty all are equal: only thresholds among those forty have an exponent
    s = from_eigenvalues(np.append(np.linspace(1, 3, 40), np.full(40, 9.0)))
    found = power_law(s, shape_of(s))
    assert found.x_min <= 3 * (1 + 1e-12)
    assert 1 < found.alpha_pl < 20


@pytest.mark.filterwarnings("error")
def test_two_large_eigenvalues_near_to_each_other_give_no_warning():
    s = from_eigenvalues(np.append(spectra()["uniform"], [3.0, 3.001]))
    assert np.isfinite(power_law(s, shape_of(s))).all()


def test_an_orthogonal_matrix_has_no_tail():
    s = singular_values(rotation(100, seed=3))
    with pytest.raises(Undefined):
        power_law(s, (100, 100))


def test_zeros_and_what_an_absolute_threshold_cuts_are_left_out():
    s = from_eigenvalues(spectra()["pareto"])
    assert power_law(np.append(s, np.zeros(20)), (110, 110)) == power_law(s, (90, 90))
    assert power_law(s, (90, 90), threshold=float(s[60] ** 2)) == power_law(s[:60], (60, 60))
    with pytest.raises(Undefined, match="49 nonzero eigenvalues, fewer than 50"):
        power_law(s, (90, 90), threshold=float(s[49] ** 2))
