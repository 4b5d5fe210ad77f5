"""A symmetric matrix as a band matrix of the same eigenvalues, and those eigenvalues.

A matrix below 2,600 rows goes straight to tridiagonal form (LAPACK's `sytrd`), half of whose work is
matrix times vector and waits for memory. A larger one goes to a wider band first, where all the work is
matrix times matrix, and the band to tridiagonal form (`sbtrd`): more work at several times the speed.

Source: Bischof, Lang and Sun 2000, "A framework for symmetric band reduction".
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spectral_ft.spectral.lapack import call, call_checked

TWO_STAGES_FROM = 2600
"""Rows; measured, `bench/README.md`."""
BAND_WIDTH = 96
"""Diagonals below the main one after the first stage; wider is faster there and slower in the second."""
PANEL = 64
"""Columns that LAPACK's blocked routines work on at a time; the length of their workspace."""


@dataclass(frozen=True)
class Reduced:
    """`B = Q^T A Q`: a band matrix of A's eigenvalues."""

    band: np.ndarray
    """LAPACK's lower band form: shape (m, width + 1), row j holding column j from its diagonal down."""
    turned_back: Callable[[np.ndarray], np.ndarray]
    """`Q x` of a vector `x`, shape (m,)."""


def reduced(matrix: np.ndarray) -> Reduced:
    """A symmetric matrix as a band matrix, by whichever way is faster.

    Args:
        matrix: C-ordered, shape (m, m), float64 or float32, of which only the upper triangle is
            read. It is destroyed, and must stay while `turned_back` is wanted.

    Returns:
        The band matrix.
    """
    return _tridiagonal(matrix) if len(matrix) < TWO_STAGES_FROM else _banded(matrix, BAND_WIDTH)


def eigenvalues(band: np.ndarray) -> np.ndarray:
    """All eigenvalues of a symmetric band matrix.

    Args:
        band: As `Reduced` has it; left as it is.

    Returns:
        Ascending, shape (m,), in the matrix's precision.
    """
    dtype, (m, width) = band.dtype, (len(band), band.shape[1] - 1)
    if width == 1:
        diagonal, beside = band[:, 0].copy(), band[:, 1].copy()
    else:
        diagonal, beside = np.empty(m, dtype), np.empty(m, dtype)
        none, workspace = np.empty(1, dtype), np.empty(m, dtype)
        call_checked("sbtrd", dtype, b"N", b"L", m, width, band.copy(), width + 1, diagonal, beside, none, 1, workspace)
    call_checked("sterf", dtype, m, diagonal, beside)
    return diagonal


def _tridiagonal(matrix: np.ndarray) -> Reduced:
    dtype, m = matrix.dtype, len(matrix)
    diagonal, beside = np.empty(m, dtype), np.zeros(m, dtype)
    scales, workspace = np.empty(m, dtype), np.empty(m * PANEL, dtype)
    call_checked("sytrd", dtype, b"L", m, matrix, m, diagonal, beside, scales, workspace, len(workspace))

    def turned_back(vector: np.ndarray) -> np.ndarray:
        found = vector.copy()
        call_checked("ormtr", dtype, b"L", b"L", b"N", m, 1, matrix, m, scales, found, m, workspace, len(workspace))
        return found

    return Reduced(np.stack([diagonal, beside], axis=1), turned_back)


def _banded(matrix: np.ndarray, width: int) -> Reduced:
    """Reduce block column by block column.

    A QR of what stands below the diagonal block leaves a triangle there, and its orthogonal factor
    `I - V T V^T` is applied to the rest from both sides, `A - V Y^T - Y V^T` with
    `Y = X - V (T^T V^T X) / 2` and `X = A V T`.

    Args:
        matrix: As for `reduced`.
        width: Diagonals that are left below the main one.

    Returns:
        The band matrix.
    """
    dtype, m = matrix.dtype, len(matrix)
    band = np.zeros((m, width + 1), dtype)
    scales, workspace = np.empty(width, dtype), np.empty(m * PANEL, dtype)
    triangles: list[tuple[int, int, np.ndarray]] = []
    for start in range(0, m, width):
        columns = min(width, m - start)
        stop = start + columns
        below = m - stop
        for j in range(start, stop):
            band[j, : stop - j] = matrix[j, j:stop]
        if not below:
            break
        # In the order of memory a column of the lower triangle is a row here.
        panel = matrix[start:stop, stop:]
        call_checked("geqrf", dtype, below, columns, panel, m, scales, workspace, len(workspace))
        for j in range(columns):
            entries = min(j + 1, below)
            band[start + j, columns - j : columns - j + entries] = panel[j, :entries]
        v = _reflectors(matrix, start, stop)
        count = len(v)
        t = np.zeros((count, count), dtype)
        call("larft", dtype, b"F", b"C", below, count, v, below, scales, t, count)
        t = np.tril(t)  # rows are the columns of T
        triangles.append((start, stop, t))
        vt = t @ v
        rest = matrix[stop:, stop:]
        y = np.empty_like(v)
        call("symm", dtype, b"L", b"L", below, count, 1.0, rest, m, vt, below, 0.0, y, below)
        y -= (vt @ y.T / 2) @ v
        call("syr2k", dtype, b"L", b"N", below, count, -1.0, v, below, y, below, 1.0, rest, m)

    def turned_back(vector: np.ndarray) -> np.ndarray:
        found = vector.copy()
        for start, stop, t in reversed(triangles):
            v = _reflectors(matrix, start, stop)
            found[stop:] -= (t.T @ (v @ found[stop:])) @ v
        return found

    return Reduced(band, turned_back)


def _reflectors(matrix: np.ndarray, start: int, stop: int) -> np.ndarray:
    # V of the panel that `geqrf` left there, one reflector a row.
    v = np.triu(matrix[start:stop, stop:][: min(stop - start, len(matrix) - stop)])
    v[np.diag_indices(len(v))] = 1
    return v
