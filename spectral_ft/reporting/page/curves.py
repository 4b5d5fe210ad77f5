"""Training curves: what `train.jsonl` has over steps, every seed a line."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from spectral_ft.errors import Damaged
from spectral_ft.reporting.page.arms import Arm, legend, run_name
from spectral_ft.reporting.page.axes import Scale, horizontal, short, vertical
from spectral_ft.reporting.page.views import Chart, Line, Mark, Section
from spectral_ft.reporting.records import RunFolder
from spectral_ft.storage import check

QUANTITIES = {
    "loss": "loss",
    "grad_norm": "norm of the gradient",
    "learning_rate": "learning rate",
    "validation_loss": "loss on held-out examples",
}
"""Columns of the log that are drawn, and what they are called."""
POINTS = 200
"""Of a curve, at most: more are not seen at this size, and the page stays small."""

Rows = list[dict[str, float]]
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Log:
    """What one run logged."""

    arm: Arm
    run: RunFolder
    rows: Rows


def curves_section(arms: Sequence[Arm]) -> Section:
    """Loss, gradient norm, learning rate and held-out loss over steps.

    Args:
        arms: Whose runs are drawn, finished or not.

    Returns:
        A chart a quantity; none where nothing was logged.
    """
    logs, notes = [], []
    for one, run in tqdm([(arm, run) for arm in arms for run in arm.runs], desc="curves", unit="run", leave=False):
        path = run.folder / "train.jsonl"
        try:
            if (run.folder / "train.json").exists():  # until then it grows
                check(path, way_out="The curves may be wrong; no other number depends on it.")
            rows, cut = _rows(path.read_text(encoding="utf-8", errors="replace"))
        except FileNotFoundError:
            continue
        except OSError as error:
            notes.append(f"{run_name(run)}: its train.jsonl cannot be read: {error.strerror or error}.")
            continue
        except Damaged as error:
            notes.append(f"{run_name(run)}: {error}")
            continue
        logs.append(Log(one, run, rows))
        for name, label in QUANTITIES.items():
            if wild := [row["step"] for row in rows if not math.isfinite(row.get(name, 0.0))]:
                notes.append(
                    f"{run_name(run)}: {label} is NaN or infinite in {len(wild)} rows, first at step {wild[0]:g}."
                )
        if cut:
            notes.append(f"{run_name(run)}: {cut} lines of its train.jsonl are damaged and left out.")
    charts = tuple(chart for name, label in QUANTITIES.items() if (chart := _chart(name, label, logs)))
    drawn = [arm for arm in arms if any(log.arm is arm for log in logs)]
    return Section(
        id="curves",
        title="Training curves",
        lead="One line a run; the seeds of an arm look alike.",
        charts=charts,
        legend=legend(drawn) if charts else (),
        notes=tuple(notes),
    )


def thinned(points: Points, *, most: int = POINTS) -> Points:
    """A curve with fewer points.

    Args:
        points: By step.
        most: To keep.

    Returns:
        Every n-th, and the last.
    """
    if len(points) <= most:
        return points
    stride = -(-(len(points) - 1) // (most - 1))
    return [*points[:-1:stride], points[-1]]


def _rows(text: str) -> tuple[Rows, int]:
    # The rows of a log, and how many lines are none; a killed run may leave half a line.
    rows, cut = [], 0
    for line in filter(None, text.splitlines()):
        try:
            row = json.loads(line)
            found = {name: float(row[name]) for name in QUANTITIES if row.get(name) is not None}
            rows.append({"step": float(row["step"]), **found})
        except (ValueError, KeyError, TypeError):
            cut += 1
    return rows, cut


def _chart(name: str, label: str, logs: Sequence[Log]) -> Chart | None:
    curves = [
        (log, [(row["step"], row[name]) for row in log.rows if math.isfinite(row.get(name, math.nan))]) for log in logs
    ]
    curves = [(log, thinned(sorted(points))) for log, points in curves if points]
    if not curves:
        return None
    x = horizontal([step for _, points in curves for step, _ in points])
    y = vertical([value for _, points in curves for _, value in points])
    return Chart(
        title=label,
        description=f"{label} over training steps of {len(curves)} runs: "
        + "; ".join(f"{run_name(log.run)} ends at {short(points[-1][1])}" for log, points in curves),
        x_label="step",
        x_ticks=x.ticks,
        y_ticks=y.ticks,
        lines=tuple(Line(_path(points, x, y), log.arm.style, run_name(log.run)) for log, points in curves),
        marks=tuple(_end(log, points, x, y) for log, points in curves),
    )


def _path(points: Points, x: Scale, y: Scale) -> str:
    return "M" + "L".join(f"{x.at(step):g} {y.at(value):g}" for step, value in points)


def _end(log: Log, points: Points, x: Scale, y: Scale) -> Mark:
    step, value = points[-1]
    return Mark(x.at(step), y.at(value), log.arm.style, f"{run_name(log.run)}: {short(value)} at step {step:g}")
