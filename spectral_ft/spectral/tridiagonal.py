"""Eigenvalues of a symmetric matrix, through a tridiagonal one.

A matrix below 2,600 rows goes straight to tridiagonal form (LAPACK's `sytrd`), half of whose work is
matrix times vector and waits for memory. A larger one goes to a band first, where all the work is
matrix times matrix, and the band to tridiagonal form (`sbtrd`): twice the work at five times the speed.

Source: Bischof, Lang and Sun 2000, "A framework for symmetric band reduction".
"""

import numpy as np

from spectral_ft.spectral.lapack import call, call_checked

TWO_STAGES_FROM = 2600
"""Rows; measured, `bench/README.md`."""
BAND_WIDTH = 96
"""Diagonals below the main one after the first stage; wider is faster there and slower in the second."""
PANEL = 64
"""Columns that LAPACK's blocked routines work on at a time; the length of their workspace."""


def eigenvalues(matrix: np.ndarray) -> np.ndarray:
    """All eigenvalues of a symmetric matrix.

    Args:
        matrix: C-ordered, shape (m, m), of which only the upper triangle is read; destroyed.

    Returns:
        Ascending, shape (m,), in the matrix's precision.
    """
    dtype, m = matrix.dtype, len(matrix)
    diagonal, beside = np.empty(m, dtype), np.empty(m, dtype)
    if m < TWO_STAGES_FROM:
        workspace = np.empty(m * PANEL, dtype)
        reflectors = np.empty(m, dtype)
        call_checked("sytrd", dtype, b"L", m, matrix, m, diagonal, beside, reflectors, workspace, len(workspace))
    else:
        band = _band(matrix, BAND_WIDTH)
        none, workspace = np.empty(1, dtype), np.empty(m, dtype)
        call_checked(
            "sbtrd", dtype, b"N", b"L", m, BAND_WIDTH, band, BAND_WIDTH + 1, diagonal, beside, none, 1, workspace
        )
    call_checked("sterf", dtype, m, diagonal, beside)
    return diagonal


def _band(matrix: np.ndarray, width: int) -> np.ndarray:
    """A symmetric band matrix of the same eigenvalues.

    Block column by block column: a QR of what stands below the diagonal block leaves a triangle
    there, and its orthogonal factor `Q = I - V T V^T` is applied to the rest from both sides,
    `A - V Y^T - Y V^T` with `Y = X - V (T^T V^T X) / 2` and `X = A V T`.

    Args:
        matrix: As for `eigenvalues`; destroyed.
        width: Diagonals that are left below the main one.

    Returns:
        LAPACK's lower band form: shape (m, width + 1), row j holding column j from its diagonal down.
    """
    dtype, m = matrix.dtype, len(matrix)
    band = np.zeros((m, width + 1), dtype)
    scales, workspace = np.empty(width, dtype), np.empty(m * PANEL, dtype)
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
        count = min(below, columns)
        v = np.triu(panel[:count])
        v[np.diag_indices(count)] = 1
        t = np.zeros((count, count), dtype)
        call("larft", dtype, b"F", b"C", below, count, v, below, scales, t, count)
        vt = np.tril(t) @ v  # rows are the columns of V T
        rest = matrix[stop:, stop:]
        y = np.empty_like(v)
        call("symm", dtype, b"L", b"L", below, count, 1.0, rest, m, vt, below, 0.0, y, below)
        y -= (vt @ y.T / 2) @ v
        call("syr2k", dtype, b"L", b"N", below, count, -1.0, v, below, y, below, 1.0, rest, m)
    return band
