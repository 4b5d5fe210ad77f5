"""Oracle: edges worked out by hand, planted spikes, and noise that has none."""

import numpy as np
import pytest

from spectral_ft.spectral.bulk import num_spikes, num_spikes_tw
from spectral_ft.spectral.decomposition import singular_values
from spectral_ft.spectral.eigenvalues import Undefined
from tests.oracles import gaussian
from tests.spectral.spectra import from_eigenvalues, with_spikes

BOTH = pytest.mark.parametrize("metric", [num_spikes, num_spikes_tw])


def with_mean(*large: float, mean: float) -> np.ndarray:
    """Singular values of 64 eigenvalues of this mean, of which these are the large ones."""
    rest = 64 - len(large)
    return from_eigenvalues(np.append(large, np.full(rest, (64 * mean - sum(large)) / rest)))


@pytest.mark.parametrize(
    ("shape", "mean", "correction"),
    [
        # edge (1 + 1)^2 mean = 8; under the root 1 * 8^(2/3) * 64^(-2/3) = 4 / 16
        ((64, 64), 2.0, 0.5),
        # edge (1 + 1/2)^2 mean = 8; under the root (1/2) * 4 / 16
        ((64, 256), 32 / 9, np.sqrt(1 / 8)),
        ((256, 64), 32 / 9, np.sqrt(1 / 8)),
    ],
)
def test_both_edges_lie_where_the_formulas_say_to_four_digits(shape, mean, correction):
    s = with_mean(8 + correction + 0.001, 8 + correction - 0.001, 8.001, 7.999, mean=mean)
    assert num_spikes(s, shape) == 3
    assert num_spikes_tw(s, shape) == 1


@BOTH
@pytest.mark.parametrize("shape", [(100, 100), (100, 300), (300, 100)])
def test_noise_has_hardly_a_spike(metric, shape):
    counts = [metric(singular_values(gaussian(*shape, seed=seed)), shape) for seed in range(20)]
    assert np.mean(counts) <= 0.5


@BOTH
@pytest.mark.parametrize("count", [1, 5, 12])
def test_planted_spikes_are_counted(metric, count):
    assert metric(singular_values(with_spikes(count, factor=2)), (200, 400)) == count


def test_many_spikes_hide_some_of_themselves():
    # the documented weakness of the mean eigenvalue as the variance
    assert num_spikes(singular_values(with_spikes(100, factor=1.3)), (200, 400)) < 100


def test_zero_eigenvalues_count_in_the_mean():
    # mean 2 over 64, and 4 over the 32 that are not zero: the edge is 8 and not 16
    s = from_eigenvalues(np.concatenate([[12.0], np.full(55, 116 / 55), np.zeros(8)]))
    assert num_spikes(s, (64, 64)) == 1


def test_small_weights_lose_their_spikes_to_the_term_of_the_code_but_not_to_the_formula_of_the_paper():
    s = singular_values(with_spikes(20, factor=1.2))
    assert [num_spikes_tw(scale * s, (200, 400)) for scale in (1, 1e-4)] == [20, 0]
    assert [num_spikes(scale * s, (200, 400)) for scale in (1, 1e-4)] == [20, 20]


@BOTH
def test_fewer_than_50_eigenvalues_have_no_bulk(metric):
    with pytest.raises(Undefined, match="49 nonzero eigenvalues, fewer than 50"):
        metric(np.append(np.linspace(2, 1, 49), 0.0), (50, 50))
