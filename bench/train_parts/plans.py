"""The plan that both contenders of a row follow."""

from pathlib import Path

from spectral_ft.compose import build_experiment, composed
from spectral_ft.experiment import all_parts
from spectral_ft.stages.allocation import plan_allocation
from spectral_ft.stages.base import base_model
from spectral_ft.stages.reading import what_plans_read
from train_parts.rows import Row, overrides


def plan_of_row(row: Row, model: Path, folder: Path) -> tuple[Path, int]:
    """Make the plan as a run would.

    Args:
        row: What is compared.
        model: Folder of the checkpoint.
        folder: Of the plan; made.

    Returns:
        The file, and the number of the lowest block that has an adapter; 0 for methods that ask no policy.
    """
    folder.mkdir(parents=True)
    experiment = build_experiment(composed(overrides(row, model)))
    checkpoint = experiment.model.locate()
    report, probe = what_plans_read(experiment, checkpoint, parts=all_parts(experiment.parts), folder=folder)
    base = base_model(experiment, checkpoint, tuple(spectrum.matrix for spectrum in report.matrices))
    plan = plan_allocation(experiment.parts, base, report, probe, folder=folder)
    block = {matrix.name: matrix.block for matrix in base.matrices}
    return folder / "plan.json", min((block[allocation.name] for allocation in plan.adapted), default=0)
