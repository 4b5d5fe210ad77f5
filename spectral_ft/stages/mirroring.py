"""What a tracker is shown beside the rows of the training: spectra and plan as pictures, plan and scores as tables."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from spectral_ft.experiment import Experiment, all_parts, columns_read
from spectral_ft.processes import is_first
from spectral_ft.tracking.tracker import Tracker
from spectral_ft.types import AllocationPlan, BenchmarkScore, SpectralReport, TrainOutcome

FIGURES = "figures"


def show_plan(
    experiment: Experiment, report: SpectralReport, plan: AllocationPlan, *, folder: Path, tracker: Tracker
) -> None:
    """Show what every matrix gets, and the columns by which that was decided.

    Args:
        experiment: Its components.
        report: With the columns that the plan reads; none where it reads shapes alone.
        plan: What each matrix gets.
        folder: Of the run; the pictures are left in `figures/`, and are not drawn again where they lie there.
        tracker: Takes them.
    """
    if not is_first():
        return
    tracker.table("plan", [asdict(allocation) for allocation in plan.allocations])
    if experiment.figures:
        for path in _pictures(experiment, report, plan, folder / FIGURES):
            tracker.picture(path)


def show_results(
    scores: Sequence[BenchmarkScore],
    outcome: TrainOutcome | None,
    plan: AllocationPlan,
    *,
    folder: Path,
    tracker: Tracker,
) -> None:
    """Show what came out.

    Args:
        scores: Of the base and of the trained model.
        outcome: Of the training; None where nothing was trained.
        plan: What was trained.
        folder: Of the run.
        tracker: Takes them.
    """
    tracker.table("scores", [asdict(score) for score in scores])
    if (drift := folder / FIGURES / "drift.png").exists():
        tracker.picture(drift)
    costs = {"trainable_parameters": plan.trainable_parameters, "trainable_percent": plan.trainable_percent}
    if outcome:
        costs |= {name: getattr(outcome, name) for name in ("seconds", "tokens_per_second", "peak_memory_bytes")}
    values = {f"{score.stage}/{score.task}/{score.metric}/{score.extractor}": score.value for score in scores}
    tracker.summarise(costs | values)


def _pictures(experiment: Experiment, report: SpectralReport, plan: AllocationPlan, target: Path) -> list[Path]:
    from spectral_ft.reporting.plan_figure import draw_plan
    from spectral_ft.reporting.spectral_figures import draw_heat_map

    drawn = []
    known = report.matrices[0].columns
    for column in sorted(columns_read(all_parts(experiment.parts)) & known.keys()):
        drawn.append(target / f"heat-map-{column}.png")
        if not drawn[-1].exists():
            draw_heat_map(drawn[-1], report, column)
    drawn.append(target / "plan.png")
    if not drawn[-1].exists():
        matrices = [spectrum.matrix for spectrum in report.matrices]
        draw_plan(drawn[-1], plan, matrices, title=f"{experiment.method.name} on {experiment.model.label}")
    return drawn
