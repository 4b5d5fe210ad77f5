"""What was trained to `drift.parquet`: each trained matrix beside what it was, read when it is its turn."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from spectral_ft.bfloat16 import widened
from spectral_ft.errors import CheckpointError
from spectral_ft.experiment import Experiment
from spectral_ft.methods.none import Nothing
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.models.tensors import Contents, safetensors_contents
from spectral_ft.spectral.analysis import Analysis
from spectral_ft.spectral.drift import drift_columns
from spectral_ft.spectral.drift_settings import DriftSettings, NoDrift
from spectral_ft.spectral.metrics import MetricOptions
from spectral_ft.stages.base import HeldBase
from spectral_ft.storage import csv_text, stored, write_text
from spectral_ft.types import MatrixShape

if TYPE_CHECKING:
    from peft import PeftModel

log = logging.getLogger(__name__)
FILE = "drift.parquet"
UNMOVED = frozenset({"BOTTLENECK", "PREFIX_TUNING", "LN_TUNING"})
"""Forms of what was trained (`opening.form_of`) that leave every matrix as it is."""
COPIES = 10
"""Of a matrix in float64 that are in memory while it is compared: W, W', U, four factors, and LAPACK's own."""


def drift(
    experiment: Experiment, checkpoint: Checkpoint, folder: Path, *, held: HeldBase | None = None
) -> pd.DataFrame | None:
    """Measure how far training moved the matrices, once a run, and draw it.

    Args:
        experiment: Its components.
        checkpoint: The base.
        folder: Of the run, with its `adapter`; `drift.csv`, `drift.parquet` and `figures/drift.png` are left there.
        held: Lends the base; None loads one for this stage.

    Returns:
        One row a trained matrix, as docs/drift.md describes; None where it is not asked for, or no matrix was moved.
    """

    def make() -> pd.DataFrame | None:
        fresh = measured(experiment, checkpoint, folder / "adapter", held=held)
        if fresh is not None:
            write_text(folder / "drift.csv", csv_text(fresh, index=False), home=folder)
        return fresh

    frame, picture = stored(folder / FILE, pd.DataFrame, make), folder / "figures" / "drift.png"
    if frame is not None and experiment.figures and not picture.exists():
        from spectral_ft.reporting.drift_figure import draw_drift

        matrices = replace(checkpoint, dequantize=True).matrices
        draw_drift(picture, frame, matrices, title=f"{experiment.method.name} on {experiment.model.label}")
    return frame


def measured(
    experiment: Experiment, checkpoint: Checkpoint, adapter: Path, *, held: HeldBase | None = None
) -> pd.DataFrame | None:
    """Measure how far training moved the matrices.

    Args:
        experiment: Its components; its base is loaded as it was trained on, packed weights read as what they
            stand for.
        checkpoint: Of the base.
        adapter: Folder of what was trained.
        held: Lends the base; None loads one for this stage.

    Returns:
        One row a trained matrix; None, and a line in the log, where no matrix was moved, or `drift=none`.

    Raises:
        CheckpointError: If a matrix has no finite decomposition.
    """
    began, settings = time.perf_counter(), experiment.drift
    if isinstance(settings, NoDrift):
        return None
    with ExitStack() as stack:
        base = held
        if base is None:
            base = HeldBase(experiment, checkpoint)
            stack.callback(base.release)
        moved = _moved(experiment, checkpoint, adapter, base, stack)
        if moved is None:
            log.info(
                "method=%s leaves every weight matrix as it is, so there is no drift to measure",
                experiment.method.name,
            )
            return None
        frame = _compared(moved, settings, experiment.spectrum.analysis)
    log.info(
        "drift of %d matrices in %.1f s: |update| / |W| %.3g in the median, top %d turned by up to %.0f degrees, "
        "%d intruders",
        len(frame),
        time.perf_counter() - began,
        frame["relative_frobenius"].astype(float).median(),
        settings.top,
        np.degrees(frame[["angle_left", "angle_right"]].astype(float).max().max()),
        frame["intruders_left"].astype(float).sum(),
    )
    return frame


def _compared(moved: "_Moved", settings: DriftSettings, how: Analysis) -> pd.DataFrame:
    work = partial(_row, moved=moved, settings=settings, options=how.options)
    # As in the spectral stage: several BLAS threads wait for one another longer than they compute (measured on a busy
    # machine: ten times), so parallelism is over matrices.
    pool = ThreadPoolExecutor(workers(moved.matrices, how))
    try:
        with threadpool_limits(1):
            found = pool.map(work, moved.matrices)
            rows = list(tqdm(found, desc="drift", unit=" matrices", total=len(moved.matrices), leave=False))
    finally:
        pool.shutdown(cancel_futures=True)
    return pd.DataFrame(rows)


def _row(
    matrix: MatrixShape, *, moved: "_Moved", settings: DriftSettings, options: MetricOptions
) -> dict[str, str | float | None]:
    before = np.asarray(widened(moved.read(matrix)), np.float64)
    try:
        columns, reasons = drift_columns(before, moved.trained(matrix, before), settings=settings, options=options)
    except ValueError as error:
        raise CheckpointError(
            f"{matrix.name} cannot be compared with what it was: {error}. Its training diverged: repeat the run "
            "with a lower training.learning_rate."
        ) from error
    return {
        "name": matrix.name,
        "type": matrix.type,
        "side": matrix.side,
        "block": matrix.block,
        "rows": matrix.sides[0],
        "cols": matrix.sides[1],
        **columns,
        "reasons": "; ".join(f"{column}: {why}" for column, why in reasons.items()),
    }


def workers(matrices: tuple[MatrixShape, ...], how: Analysis) -> int:
    """As many as asked for, as far as memory holds the largest matrices side by side.

    Args:
        matrices: That are compared with what they were.
        how: What was asked for.

    Returns:
        At least one.
    """
    if how.memory is None:
        return how.workers
    largest = max(matrix.sides[0] * matrix.sides[1] for matrix in matrices)
    return max(1, min(how.workers, how.memory // (COPIES * 8 * largest)))


@dataclass(frozen=True)
class _Moved:
    """The matrices that training moved, as they were and as they are."""

    matrices: tuple[MatrixShape, ...]
    read: Callable[[MatrixShape], np.ndarray]
    """What one was: (d_out, d_in); bf16 as its bits in uint16."""
    trained: Callable[[MatrixShape, np.ndarray], np.ndarray]
    """What one is now, given what it was."""


def _moved(
    experiment: Experiment, checkpoint: Checkpoint, adapter: Path, held: HeldBase, stack: ExitStack
) -> _Moved | None:
    # None: no matrix of a block was moved. What is put on the base goes off again with the stack.
    if isinstance(experiment.method, Nothing):
        return None
    from spectral_ft.adapters.opening import form_of
    from spectral_ft.adapters.origin import check_origin

    form = form_of(adapter)
    if form in UNMOVED:
        return None
    check_origin(adapter, model=experiment.model.label, fingerprint=checkpoint.fingerprint)
    found = _with_tensors(adapter, held) if form == "TENSORS" else _with_layers(adapter, held, stack)
    return found if found.matrices else None


def _with_tensors(adapter: Path, held: HeldBase) -> _Moved:
    # Tensors that took the place of the base's. They are not put into it: it is what they are compared with.
    from spectral_ft.models.loaded import loaded_matrices

    stored = safetensors_contents(adapter).tensors
    base = loaded_matrices(held.model, dequantize=True)
    trained = base.limited_to(Contents(stored, {}))
    if trained is None:
        return _Moved((), lambda matrix: np.empty(0), lambda matrix, before: before)
    return _Moved(trained.matrices, base.read, lambda matrix, before: widened(trained.read(matrix)))


def _with_layers(adapter: Path, held: HeldBase, stack: ExitStack) -> _Moved:
    # Adapters beside matrices that stay as they were.
    from spectral_ft.adapters.opening import open_adapter
    from spectral_ft.adapters.trained_weight import trained_matrices, trained_weight
    from spectral_ft.models.loaded import loaded_matrices

    opened: PeftModel = open_adapter(stack.enter_context(held.lent()), adapter)  # type: ignore[assignment]
    base = loaded_matrices(opened, dequantize=True)  # type: ignore[arg-type]
    names = set(trained_matrices(opened))
    return _Moved(
        tuple(matrix for matrix in base.matrices if matrix.name in names),
        base.read,
        lambda matrix, before: trained_weight(opened, matrix.name, before),
    )
