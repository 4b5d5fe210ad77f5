"""The walk over a checkpoint's matrices: decompose each once, in parallel, one BLAS thread each."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext

import numpy as np
from filelock import FileLock
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from spectral_ft.errors import CheckpointError
from spectral_ft.spectral.cache import SpectrumCache
from spectral_ft.spectral.decomposition import singular_values
from spectral_ft.spectral.metrics import metric_columns
from spectral_ft.types import MatrixShape, MatrixSpectrum

ReadMatrix = Callable[[MatrixShape], np.ndarray]
"""Reads one matrix from disk when it is its turn: (d_out, d_in) or its transpose."""


def analyse(
    matrices: Iterable[MatrixShape], read: ReadMatrix, *, cache: SpectrumCache | None, workers: int
) -> tuple[tuple[MatrixSpectrum, ...], int]:
    """Singular values and metric columns of every matrix.

    At most `workers` matrices are in memory. A second process on the same checkpoint waits, and
    then finds the values in the cache.

    Args:
        matrices: What to analyse.
        read: Reads one of them.
        cache: Where singular values are kept; None computes them all.
        workers: Matrices at a time.

    Returns:
        One spectrum a matrix, in the order given; and how many were not in the cache.

    Raises:
        CheckpointError: If a weight is NaN or infinite; the others are in the cache by then.
    """
    wanted = list(matrices)
    with FileLock(cache.lock_file) if cache else nullcontext():
        found: dict[str, np.ndarray] = {}
        for matrix in wanted:
            if cache and (stored := cache.load(matrix.name, matrix.smaller_side)) is not None:
                found[matrix.name] = stored
        missing = [matrix for matrix in wanted if matrix.name not in found]
        for matrix, s in _decompose(missing, read, workers):
            found[matrix.name] = s
            if cache:
                cache.store(matrix.name, s)
    return tuple(_spectrum(matrix, found[matrix.name]) for matrix in wanted), len(missing)


def _spectrum(matrix: MatrixShape, s: np.ndarray) -> MatrixSpectrum:
    columns, reasons = metric_columns(s, matrix.shape)
    return MatrixSpectrum(matrix=matrix, singular_values=s, columns=columns, reasons=reasons)


def _decompose(matrices: list[MatrixShape], read: ReadMatrix, workers: int) -> Iterator[tuple[MatrixShape, np.ndarray]]:
    """Singular values as they are ready.

    Largest first, so that no worker is left with a big matrix at the end.

    Yields:
        Matrix and singular values.
    """

    def work(matrix: MatrixShape) -> np.ndarray:
        try:
            return singular_values(read(matrix))
        except ValueError as error:
            raise CheckpointError(
                f"{matrix.name}.weight cannot be analysed: {error}. The checkpoint is damaged, or training diverged."
            ) from error

    queue = sorted(matrices, key=lambda matrix: -(matrix.smaller_side**2) * max(matrix.shape))
    bar = tqdm(total=len(queue), desc="singular values", unit="matrix", disable=not queue, leave=False)
    failures: list[CheckpointError] = []
    # OpenBLAS threads inside busy workers only spin: parallelism is over matrices.
    with bar, threadpool_limits(1), ThreadPoolExecutor(workers) as pool:
        running: dict[Future[np.ndarray], MatrixShape] = {}
        while queue or running:
            while queue and len(running) < workers:
                matrix = queue.pop(0)
                running[pool.submit(work, matrix)] = matrix
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                matrix = running.pop(future)
                bar.update()
                try:
                    yield matrix, future.result()
                except CheckpointError as error:
                    failures.append(error)
    if failures:
        raise failures[0]
