"""Exact singular values of one matrix, from the eigenvalues of its smaller Gram matrix in float64.

Gram matrices square the condition number: a singular value is found to about `1e-16 s_1^2 / s_i`.
On trained weights that moves no metric by more than 1e-12 (relative) but the condition number, for
which the smallest one is found once more (`smallest.py`). A singular value below `1e-8 s_1` is noise,
and counts as zero in every metric that divides by it or takes its logarithm.

The Gram matrix is summed up block by block, so that beside the weights as they are stored only it and
one block are in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from spectral_ft.bfloat16 import widened
from spectral_ft.spectral.lapack import call
from spectral_ft.spectral.smallest import agrees, needs_refinement, smallest_direction, squared_length
from spectral_ft.spectral.tridiagonal import PANEL, eigenvalues, reduced

Precision = Literal["float64", "float32"]

BLOCK_ENTRIES = 1 << 20
"""Of the weights, widened at a time."""
FLOAT32_CONDITION = 1e3
"""Up to it float32 keeps five digits of most metrics; above, float64 is used.

`condition_number` keeps four, and an exponent that searches its threshold may find another one.
"""
EXACT_MOMENT = 1e-10
"""Share of the squared entries' sum below which their variance drowns in rounding, and is summed up on its own."""


@dataclass(frozen=True)
class Decomposition:
    """What is kept of a matrix: enough for every metric."""

    singular_values: np.ndarray
    """Descending float64, shape (m,)."""
    mean: float
    """Of the entries."""
    std: float
    """Of the entries, unbiased; 0 for a single entry."""
    precision: Precision
    """In which it was computed."""


class Squared(NamedTuple):
    """What is computed from the Gram matrix of `weights / scale`."""

    eigenvalues: np.ndarray
    """Ascending, shape (m,); anything where the trace is not finite."""
    trace: float
    """The sum of the squared entries; NaN or infinite where an entry is."""
    total: float
    """The sum of the entries."""


class Solver(Protocol):
    """Computes with a Gram matrix, somewhere."""

    def __call__(self, weights: np.ndarray, *, scale: float, dtype: np.dtype[Any]) -> Squared:
        """Eigenvalues, trace and sum."""
        ...


def with_lapack(weights: np.ndarray, *, scale: float, dtype: np.dtype[Any]) -> Squared:
    """Compute on this machine's processors, on one core where BLAS has one thread.

    Args:
        weights: As for `decompose`.
        scale: What they are divided by first.
        dtype: float64 or float32.

    Returns:
        Eigenvalues, trace and sum.
    """
    gram, total = _gram(weights, scale, dtype)
    trace = float(np.trace(gram, dtype=np.float64))
    if not np.isfinite(trace):
        return Squared(np.empty(0), trace, total)
    matrix = reduced(gram)
    found = eigenvalues(matrix.band)
    if needs_refinement(found) and (direction := smallest_direction(matrix)) is not None:
        pieces = (np.asarray(block, np.float64) / scale for block in blocks(weights, BLOCK_ENTRIES))
        squared = squared_length(direction, pieces, tall=weights.shape[0] > weights.shape[1])
        if agrees(squared, found):
            found[0] = min(squared, found[1])
    return Squared(found, trace, total)


def decompose(weights: np.ndarray, *, precision: Precision = "float64", solver: Solver = with_lapack) -> Decomposition:
    """All singular values of a matrix, and the moments of its entries.

    Args:
        weights: Shape (d_out, d_in), finite floats of any type, or the bits of bf16 as uint16.
        precision: `float32` takes about half the time of a matrix. It is used only where the condition number that
            comes out is below 1e3, since rounding errors of a Gram matrix grow with its square;
            otherwise the matrix is done again in float64, and the result says so.
        solver: Where it is computed.

    Returns:
        Singular values and moments.

    Raises:
        ValueError: If an entry is NaN or infinite.
    """
    scale = _scale(weights, precision)
    found, squares, total = solver(weights, scale=scale, dtype=np.dtype(precision))
    if not np.isfinite(squares):
        raise ValueError(_not_finite(weights))
    if precision == "float32" and found[0] * FLOAT32_CONDITION**2 <= found[-1]:
        return decompose(weights, precision="float64", solver=solver)
    mean = total / weights.size
    spread = squares - total * mean
    if spread <= EXACT_MOMENT * squares:
        spread = _spread(weights, scale)
    variance = spread / max(weights.size - 1, 1)
    return Decomposition(
        singular_values=np.sqrt(np.clip(found[::-1].astype(np.float64), 0, None)) * scale,
        mean=mean * scale,
        std=float(np.sqrt(variance)) * scale,
        precision=precision,
    )


def singular_values(weights: np.ndarray) -> np.ndarray:
    """All singular values of a matrix.

    Args:
        weights: As for `decompose`.

    Returns:
        Descending float64, shape (min(d_out, d_in),).
    """
    return decompose(weights).singular_values


def working_bytes(shape: tuple[int, int]) -> int:
    """Memory that `decompose` takes beside the weights.

    Args:
        shape: Of the matrix.

    Returns:
        Bytes, in float64.
    """
    m = min(shape)
    return 8 * (m * m + 8 * m * PANEL + 2 * BLOCK_ENTRIES)


def blocks(weights: np.ndarray, entries: int) -> Iterator[np.ndarray]:
    """Pieces along the longer side, each with the whole of the shorter one.

    Args:
        weights: As for `decompose`.
        entries: About how many a piece has.

    Yields:
        Floats: (rows, d_in) of a tall matrix, (d_out, cols) of another.
    """
    rows, cols = weights.shape
    step = max(1, entries // min(rows, cols))
    for start in range(0, max(rows, cols), step):
        yield widened(weights[start : start + step] if rows > cols else weights[:, start : start + step])


def _gram(weights: np.ndarray, scale: float, dtype: np.dtype[Any]) -> tuple[np.ndarray, float]:
    # The upper triangle of the smaller Gram matrix of `weights / scale`, and the sum of its entries.
    tall = weights.shape[0] > weights.shape[1]
    m = min(weights.shape)
    gram = np.zeros((m, m), dtype)
    total = 0.0
    for block in blocks(weights, BLOCK_ENTRIES):
        scaled = np.ascontiguousarray(block if scale == 1 else block / scale, dtype)
        total += float(scaled.sum(dtype=np.float64))
        depth = scaled.size // m
        transposed, leading = (b"N", m) if tall else (b"T", depth)
        call("syrk", dtype, b"L", transposed, m, depth, 1.0, scaled, leading, 1.0, gram, m)
    return gram, total


def _scale(weights: np.ndarray, precision: Precision) -> float:
    # A power of two near the largest entry, where squares of entries could overflow or underflow.
    if precision == "float64" and weights.dtype != np.float64:
        return 1.0
    largest = max(float(np.abs(block).max()) for block in blocks(weights, BLOCK_ENTRIES))
    if not np.isfinite(largest):
        raise ValueError(_not_finite(weights))
    return float(2.0 ** np.floor(np.log2(largest))) if largest else 1.0


def _spread(weights: np.ndarray, scale: float) -> float:
    # The sum of squared deviations from the mean, where the mean is much larger than they are.
    first = float(widened(weights[:1, :1])[0, 0])
    deviations = [(np.asarray(block, np.float64) - first) / scale for block in blocks(weights, BLOCK_ENTRIES)]
    total = sum(float(piece.sum()) for piece in deviations)
    return max(sum(float((piece**2).sum()) for piece in deviations) - total**2 / weights.size, 0.0)


def _not_finite(weights: np.ndarray) -> str:
    count = sum(int(np.count_nonzero(~np.isfinite(block))) for block in blocks(weights, BLOCK_ENTRIES))
    return f"{count} of {weights.size} entries are NaN or infinite"
