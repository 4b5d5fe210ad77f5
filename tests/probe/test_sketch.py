"""Oracle: gradients typed or drawn here, projected by plain numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.probe.sketch import Sketches, projection
from tests.oracles import gaussian, law


def sketch_of(x, dy, *, sketch_dim, seed):
    sketches = Sketches(sketch_dim=sketch_dim, seed=seed)
    sketches.watch("a", torch.from_numpy(x))(torch.from_numpy(dy))
    sketches.end_batch()
    return sketches.sums()["a"]


def test_the_sketch_keeps_norms_and_inner_products_on_average():
    x, dy = gaussian(5, 40, seed=0), gaussian(5, 24, seed=1)
    other = dy + gaussian(5, 24, seed=2)
    one, two = dy.T @ x, other.T @ x
    drawn = [[sketch_of(x, y, sketch_dim=8, seed=seed) for y in (dy, other)] for seed in range(400)]
    norms = [np.sum(a**2) / np.sum(one**2) for a, _ in drawn]
    products = [np.sum(a * b) / np.sum(one * two) for a, b in drawn]
    for values in (norms, products):
        assert np.mean(values) == pytest.approx(1, abs=4 * np.std(values) / 400**0.5)
        assert np.std(values) / 400**0.5 < 0.05


@law
@given(
    dimension=st.integers(1, 300), side=st.sampled_from(["in", "out"]), k=st.integers(1, 64), seed=st.integers(0, 2**40)
)
def test_a_projection_depends_on_its_arguments_and_on_nothing_else(dimension, side, k, seed):
    numbers = projection(dimension, side, sketch_dim=k, seed=seed)
    np.random.seed(0)
    torch.manual_seed(0)
    assert numbers.shape == (dimension, k) and numbers.dtype == np.float32
    np.testing.assert_array_equal(numbers, projection(dimension, side, sketch_dim=k, seed=seed))
    assert (numbers != projection(dimension, "out" if side == "in" else "in", sketch_dim=k, seed=seed)).all()
    assert (numbers != projection(dimension, side, sketch_dim=k, seed=seed + 1)).all()
    longer = projection(dimension + 1, side, sketch_dim=k, seed=seed)
    assert (numbers != longer[:-1]).all()


def test_the_entries_of_a_projection_are_standard_normal_over_the_root_of_k():
    numbers = projection(500, "in", sketch_dim=64, seed=0) * 8
    assert numbers.mean() == pytest.approx(0, abs=4 / 32000**0.5)
    assert numbers.var() == pytest.approx(1, abs=4 * (2 / 32000) ** 0.5)
    assert (np.abs(numbers) < 1.96).mean() == pytest.approx(0.95, abs=0.01)


def test_what_two_modules_read_is_projected_once(monkeypatch):
    sketches, projected = Sketches(sketch_dim=4, seed=0), []
    original = Sketches._project
    monkeypatch.setattr(Sketches, "_project", lambda self, x, side: projected.append(side) or original(self, x, side))
    x, y = torch.randn(5, 6), torch.randn(5, 6)
    takers = [sketches.watch(name, read) for name, read in (("q", x), ("k", x), ("o", y), ("again", x))]
    assert projected == ["in", "in", "in"]
    for take in takers:
        take(torch.ones(5, 3))
    sums = sketches.sums()
    np.testing.assert_array_equal(sums["q"], sums["again"])
    np.testing.assert_array_equal(sums["q"], sums["k"])
    assert (sums["q"] != sums["o"]).all()
