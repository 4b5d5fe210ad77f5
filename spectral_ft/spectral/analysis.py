"""The walk over a model's matrices: decompose each once, in parallel, one BLAS thread each."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from filelock import FileLock
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from spectral_ft.errors import CheckpointError
from spectral_ft.spectral.cache import SpectrumCache
from spectral_ft.spectral.decomposition import (
    Decomposition,
    Precision,
    Solver,
    decompose,
    with_lapack,
    working_bytes,
)
from spectral_ft.spectral.metrics import MetricOptions, metric_columns
from spectral_ft.spectral.null import null_columns, shuffled
from spectral_ft.types import MatrixShape, MatrixSpectrum

ReadMatrix = Callable[[MatrixShape], np.ndarray]
"""Reads one matrix when it is its turn: (d_out, d_in); bf16 as its bits in uint16."""

OBSERVED = -1
"""The draw that is no shuffle."""


@dataclass(frozen=True)
class Analysis:
    """How matrices are analysed."""

    workers: int = 1
    """Matrices at a time, each on one core."""
    memory: int | None = None
    """Bytes that the matrices at work may take together; one is always worked on. None: no bound."""
    precision: Precision = "float64"
    null_draws: int = 0
    """Shuffles of each matrix, which its metrics are compared with."""
    options: MetricOptions = field(default_factory=MetricOptions)
    solver: Solver = with_lapack


Draws = dict[int, Decomposition]


def analyse(
    matrices: Iterable[MatrixShape],
    read: ReadMatrix,
    *,
    cache: SpectrumCache | None,
    how: Analysis,
    stored_bytes: Callable[[MatrixShape], int] = lambda matrix: 8 * matrix.sides[0] * matrix.sides[1],
) -> tuple[tuple[MatrixSpectrum, ...], int]:
    """Singular values and metric columns of every matrix.

    A second process on the same checkpoint waits, and then finds the values in the cache. A matrix
    that cannot be read or is not finite keeps no other from its results: its row has a fault.

    Args:
        matrices: What to analyse.
        read: Reads one of them.
        cache: Where singular values are kept; None computes them all.
        how: In which precision, how many at a time, compared with how many shuffles.
        stored_bytes: What `read` takes in memory.

    Returns:
        One spectrum a matrix, in the order given; and how many were not in the cache.

    Raises:
        CheckpointError: If no matrix can be analysed.
    """
    wanted = list(matrices)
    with FileLock(cache.lock_file) if cache else nullcontext():
        found = {matrix.name: _stored(matrix, cache, how.null_draws) for matrix in wanted}
        faults: dict[str, str] = {}
        missing = [matrix for matrix in wanted if len(found[matrix.name]) < how.null_draws + 1]
        work = partial(_decompose, read=read, how=how, found=found)
        for matrix, outcome in _walk(missing, work, how, stored_bytes):
            if isinstance(outcome, str):
                faults[matrix.name] = outcome
                continue
            found[matrix.name] |= outcome
            if cache:
                for draw, decomposition in outcome.items():
                    cache.store(_entry(matrix, draw), decomposition)
    if len(faults) == len(wanted):
        raise CheckpointError(faults[wanted[0].name])
    sound = {matrix.name: _spectrum(matrix, found[matrix.name], how) for matrix in wanted if matrix.name not in faults}
    columns = list(next(iter(sound.values())).columns)
    spectra = (sound.get(matrix.name) or _without_spectrum(matrix, faults[matrix.name], columns) for matrix in wanted)
    return tuple(spectra), len(missing)


def _entry(matrix: MatrixShape, draw: int) -> str:
    return matrix.name if draw == OBSERVED else f"{matrix.name}.shuffle{draw}"


def _stored(matrix: MatrixShape, cache: SpectrumCache | None, draws: int) -> Draws:
    if cache is None:
        return {}
    loaded = {draw: cache.load(_entry(matrix, draw), matrix.smaller_side) for draw in range(OBSERVED, draws)}
    return {draw: decomposition for draw, decomposition in loaded.items() if decomposition is not None}


def _decompose(matrix: MatrixShape, *, read: ReadMatrix, how: Analysis, found: dict[str, Draws]) -> Draws | str:
    # The draws that are not there yet, or the sentence why there are none.
    try:
        weights = read(matrix)
        return {
            draw: decompose(
                weights if draw == OBSERVED else shuffled(weights, matrix.name, draw),
                precision=how.precision,
                solver=how.solver,
            )
            for draw in range(OBSERVED, how.null_draws)
            if draw not in found[matrix.name]
        }
    except CheckpointError as error:
        return f"{matrix.name} cannot be analysed: {error}"
    except OSError as error:
        return f"{matrix.name} cannot be read: {error}."
    except (ValueError, ArithmeticError) as error:
        return f"{matrix.name}.weight cannot be analysed: {error}. The checkpoint is damaged, or training diverged."


def _without_spectrum(matrix: MatrixShape, fault: str, columns: list[str]) -> MatrixSpectrum:
    return MatrixSpectrum(matrix, None, dict.fromkeys(columns), dict.fromkeys(columns, "no spectrum"), fault)


def _spectrum(matrix: MatrixShape, draws: Draws, how: Analysis) -> MatrixSpectrum:
    observed = metric_columns(draws[OBSERVED], matrix.sides, how.options)
    shuffles = [draws[draw].singular_values for draw in range(how.null_draws)]
    columns, reasons = null_columns(observed, shuffles, matrix.sides, how.options)
    return MatrixSpectrum(
        matrix,
        draws[OBSERVED].singular_values,
        {**observed[0], **columns},
        {**observed[1], **reasons},
        precision=draws[OBSERVED].precision,
    )


def _walk(
    matrices: list[MatrixShape],
    work: Callable[[MatrixShape], Draws | str],
    how: Analysis,
    stored_bytes: Callable[[MatrixShape], int],
) -> Iterator[tuple[MatrixShape, Draws | str]]:
    """Work on several matrices at a time, as many as memory allows.

    Largest first, so that no worker is left with a big matrix at the end.

    Yields:
        Matrix and outcome, as they are ready.
    """
    queue = sorted(matrices, key=_operations, reverse=True)
    needs = {
        matrix.name: working_bytes(matrix.sides) + (2 if how.null_draws else 1) * stored_bytes(matrix)
        for matrix in queue
    }
    bar = tqdm(
        total=sum(map(_operations, queue)),
        desc="singular values",
        bar_format="{desc}: {percentage:3.0f}% |{bar:30}| {postfix} [{elapsed}, {remaining} left]",
        disable=not queue,
        leave=False,
    )
    # OpenBLAS threads inside busy workers only spin: parallelism is over matrices.
    with bar, threadpool_limits(1), ThreadPoolExecutor(how.workers) as pool:
        running: dict[Future[Draws | str], MatrixShape] = {}
        done = 0
        while queue or running:
            while len(running) < how.workers and (matrix := _next(queue, running.values(), needs, how.memory)):
                running[pool.submit(work, matrix)] = matrix
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                matrix = running.pop(future)
                done += 1
                bar.set_postfix_str(f"{done} of {len(matrices)} matrices", refresh=False)
                bar.update(_operations(matrix))
                yield matrix, future.result()


def _next(
    queue: list[MatrixShape], running: Iterable[MatrixShape], needs: dict[str, int], memory: int | None
) -> MatrixShape | None:
    # The first of the queue that fits beside what runs; where nothing runs, any does.
    taken = [needs[matrix.name] for matrix in running]
    for matrix in queue:
        if memory is None or not taken or sum(taken) + needs[matrix.name] <= memory:
            queue.remove(matrix)
            return matrix
    return None


def _operations(matrix: MatrixShape) -> float:
    m, n = sorted(matrix.sides)
    return m * m * n + 4 / 3 * m**3
