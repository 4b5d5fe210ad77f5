"""Spectra that several tests of this folder share."""

from functools import cache

import numpy as np

from tests.oracles import gaussian, rotation


def geometric(count: int) -> np.ndarray:
    """Singular values whose eigenvalues are powers of 3/2."""
    return np.sqrt(1.5 ** np.arange(count, 0, -1))


@cache
def _turned(size: int, seed: int) -> np.ndarray:
    return rotation(size, seed=seed)


def with_spikes(count: int, *, factor: float, shape: tuple[int, int] = (200, 400)) -> np.ndarray:
    """A Gaussian matrix plus orthogonal rank-one terms `factor` times above its largest singular value."""
    rows, cols = shape
    largest_of_noise = np.sqrt(rows) + np.sqrt(cols)
    left, right = _turned(rows, 7)[:, :count], _turned(cols, 8)[:, :count]
    return gaussian(rows, cols, seed=6) + factor * largest_of_noise * left @ right.T


def from_eigenvalues(eigenvalues: np.ndarray) -> np.ndarray:
    """Singular values, descending."""
    return np.sqrt(np.sort(eigenvalues)[::-1])


def shape_of(s: np.ndarray) -> tuple[int, int]:
    """Of a square matrix with these singular values."""
    return len(s), len(s)
