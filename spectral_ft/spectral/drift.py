"""How far one matrix was moved by training: the drift from W to W', with the update U = W' - W.

For LoRA U is `scaling B A`. Columns end in `_before` (of W), `_update` (of U) and `_after` (of W'); those without an
end are about two of the three. docs/drift.md says what each means.

Known gaps: two whole singular value decompositions a matrix, on the CPU whatever `spectrum.device` says.
"""

from collections.abc import Callable, Mapping

import numpy as np

from spectral_ft.spectral.decomposition import Decomposition
from spectral_ft.spectral.drift_settings import DriftSettings
from spectral_ft.spectral.eigenvalues import Shape, Undefined
from spectral_ft.spectral.metrics import Columns, MetricOptions, metric_columns
from spectral_ft.spectral.norms import effective_rank, frobenius_norm, num_zero, spectral_norm, stable_rank
from spectral_ft.spectral.subspaces import Decomposed, decomposed, energy_share, intruders, principal_angles

SIZES: Mapping[str, Callable[[np.ndarray, Shape], float]] = {
    "frobenius_norm": frobenius_norm,
    "spectral_norm": spectral_norm,
    "stable_rank": stable_rank,
    "effective_rank": effective_rank,
}
"""What is said of all three matrices."""

TURNED = ("angle_left", "angle_right", "mean_angle_left", "mean_angle_right", "intruders_left", "intruders_right")
ENERGIES = ("energy", "energy_left", "energy_right")


def drift_columns(before: np.ndarray, after: np.ndarray, *, settings: DriftSettings, options: MetricOptions) -> Columns:
    """Every column of one matrix.

    Args:
        before: W, shape (d_out, d_in).
        after: W', of the same shape.
        settings: How many singular vectors are looked at, when one is an intruder, which metrics are said.
        options: Of those metrics.

    Returns:
        Values, null where one means nothing, and the reasons of the nulls.
    """
    weights, trained = np.asarray(before, np.float64), np.asarray(after, np.float64)
    update, shape = trained - weights, (weights.shape[0], weights.shape[1])
    one, other = decomposed(weights), decomposed(trained)
    sizes = {"before": one.values, "update": np.linalg.svd(update, compute_uv=False), "after": other.values}
    columns: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for name, of in SIZES.items():
        for end, values in sizes.items():
            _add(columns, reasons, (f"{name}_{end}",), lambda of=of, values=values: (of(values, shape),))  # type: ignore[misc]
    _add(columns, reasons, ("relative_frobenius",), lambda: (_ratio(sizes["update"], one.values, frobenius_norm),))
    _add(columns, reasons, ("relative_spectral",), lambda: (_ratio(sizes["update"], one.values, spectral_norm),))
    top = int(min(settings.top, *(len(s) - num_zero(s, shape) for s in (one.values, other.values))))
    columns |= {"top": top, "threshold": settings.threshold}
    _add(columns, reasons, TURNED, lambda: _turned(one, other, top, settings.threshold))
    _add(columns, reasons, ENERGIES, lambda: _energies(update, one, top))
    for end, matrix, values in (("before", weights, one.values), ("after", trained, other.values)):
        found, why = _metrics(matrix, values, options)
        columns |= {f"{name}_{end}": found[name] for name in settings.columns}
        reasons |= {f"{name}_{end}": why[name] for name in settings.columns if name in why}
    return columns, reasons


def _add(
    columns: dict[str, float | None],
    reasons: dict[str, str],
    names: tuple[str, ...],
    values: Callable[[], tuple[float, ...]],
) -> None:
    try:
        columns |= dict(zip(names, values(), strict=True))
    except Undefined as why:
        columns |= dict.fromkeys(names)
        reasons |= dict.fromkeys(names, str(why))


def _ratio(update: np.ndarray, before: np.ndarray, norm: Callable[[np.ndarray, Shape], float]) -> float:
    shape = (len(before), len(before))  # no norm depends on it
    if before[0] == 0:
        raise Undefined("the matrix before is zero")
    return norm(update, shape) / norm(before, shape)


def _turned(one: Decomposed, other: Decomposed, top: int, threshold: float) -> tuple[float, ...]:
    if top == 0:
        raise Undefined("all singular values are zero before or after")
    angles = [principal_angles(*sides) for sides in _tops(one, other, top)]
    counts = [
        intruders(before, after[:, :top], threshold=threshold)
        for before, after in ((one.left, other.left), (one.right, other.right))
    ]
    return (
        *(float(found[0]) for found in angles),
        *(float(found.mean()) for found in angles),
        *(float(found.sum()) for found in counts),
    )


def _tops(one: Decomposed, other: Decomposed, top: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(one.left[:, :top], other.left[:, :top]), (one.right[:, :top], other.right[:, :top])]


def _energies(update: np.ndarray, one: Decomposed, top: int) -> tuple[float, ...]:
    if not update.any():
        raise Undefined("the update is zero")
    if top == 0:
        raise Undefined("all singular values are zero before or after")
    left, right = one.left[:, :top], one.right[:, :top]
    return (
        energy_share(update, left=left, right=right),
        energy_share(update, left=left),
        energy_share(update, right=right),
    )


def _metrics(matrix: np.ndarray, values: np.ndarray, options: MetricOptions) -> Columns:
    spread = float(matrix.std(ddof=1)) if matrix.size > 1 else 0.0
    shape = (matrix.shape[0], matrix.shape[1])
    return metric_columns(Decomposition(values, float(matrix.mean()), spread, "float64"), shape, options)
