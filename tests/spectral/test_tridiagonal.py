"""Oracle: matrices of typed eigenvalues, and numpy's own decomposition in float64."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from spectral_ft.spectral import tridiagonal
from spectral_ft.spectral.tridiagonal import BAND_WIDTH, eigenvalues, reduced
from tests.oracles import gaussian, rotation

AROUND_THE_BAND = sorted({
    1,
    2,
    3,
    *(BAND_WIDTH + d for d in (-1, 0, 1, 2)),
    *(2 * BAND_WIDTH + d for d in (-1, 0, 1)),
    300,
})
ONE, TWO = 10**9, 0


def symmetric(size: int, *, seed: int, dtype: type = np.float64) -> np.ndarray:
    matrix = gaussian(size, size, seed=seed)
    return ((matrix + matrix.T) / 2).astype(dtype)


@pytest.fixture(params=[ONE, TWO], ids=["one stage", "two stages"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tridiagonal, "TWO_STAGES_FROM", request.param)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("size", AROUND_THE_BAND)
def test_eigenvalues_are_numpys(size, dtype):
    matrix = symmetric(size, seed=size, dtype=dtype)
    expected = np.linalg.eigvalsh(matrix.astype(np.float64))
    found = eigenvalues(reduced(matrix.copy()).band)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=150 * np.finfo(dtype).eps * np.abs(expected).max())


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("size", [90, 150, 250])
def test_typed_eigenvalues_come_back(size):
    typed = np.sort(np.concatenate([[-5.0, -5.0, 0.0, 1e-3, 40.0], np.linspace(1, 3, size - 5)]))
    turn = rotation(size, seed=3)
    found = eigenvalues(reduced(turn @ np.diag(typed) @ turn.T).band)
    np.testing.assert_allclose(found, typed, rtol=0, atol=150 * np.finfo(np.float64).eps * 40)


@pytest.mark.usefixtures("either_way")
def test_the_lower_triangle_is_not_read():
    matrix = symmetric(130, seed=4)
    spoilt = np.triu(matrix)
    spoilt[np.tril_indices(130, -1)] = np.nan
    np.testing.assert_array_equal(eigenvalues(reduced(spoilt).band), eigenvalues(reduced(matrix.copy()).band))


@pytest.mark.usefixtures("either_way")
def test_a_zero_matrix_has_zero_eigenvalues():
    np.testing.assert_array_equal(eigenvalues(reduced(np.zeros((120, 120))).band), np.zeros(120))


@pytest.mark.parametrize("width", [1, 7, 64])
def test_the_band_has_the_eigenvalues_of_the_matrix(width, monkeypatch):
    monkeypatch.setattr(tridiagonal, "TWO_STAGES_FROM", TWO)
    monkeypatch.setattr(tridiagonal, "BAND_WIDTH", width)
    matrix = symmetric(64, seed=5)
    expected = np.linalg.eigvalsh(matrix)
    np.testing.assert_allclose(eigenvalues(reduced(matrix.copy()).band), expected, atol=1e-12)


@pytest.mark.usefixtures("either_way")
def test_two_threads_at_once_find_what_one_finds():
    matrices = [
        symmetric(size, seed=size, dtype=dtype) for size in (110, 180, 250) for dtype in (np.float64, np.float32)
    ]
    alone = [eigenvalues(reduced(matrix.copy()).band) for matrix in matrices]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(3):
            together = list(threads.map(lambda matrix: eigenvalues(reduced(matrix.copy()).band), matrices))
            for found, expected in zip(together, alone, strict=True):
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e3 * np.finfo(found.dtype).eps)
