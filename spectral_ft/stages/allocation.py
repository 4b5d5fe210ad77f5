"""Report to `plan.json`."""

import logging
from pathlib import Path

from spectral_ft.experiment import Experiment
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.storage import read_json, write_json
from spectral_ft.types import AllocationPlan, MatrixShape, SpectralReport

log = logging.getLogger(__name__)


def plan_allocation(
    experiment: Experiment, checkpoint: Checkpoint, report: SpectralReport, folder: Path
) -> AllocationPlan:
    """Policy, budget, grouping, and what the method makes of it.

    Args:
        experiment: Its components.
        checkpoint: For the parameter count of the base.
        report: Of its matrices.
        folder: Of the run.

    Returns:
        The plan.
    """
    path = folder / "plan.json"
    if path.exists():
        plan = read_json(path, AllocationPlan)
    else:
        from spectral_ft.models.loading import count_parameters

        allocations = experiment.rank_policy.allocate(report)
        allocations = experiment.grouping.group(experiment.budget.fit(allocations, report), report)
        matrices: tuple[MatrixShape, ...] = tuple(spectrum.matrix for spectrum in report.matrices)
        base = count_parameters(checkpoint.folder, trust_remote_code=experiment.model.trust_remote_code)
        plan = experiment.method.plan(allocations, matrices, base_parameters=base)
        write_json(path, plan)
    log.info(
        "allocated %d of %d matrices, %s parameters (%.3f %%)",
        len(plan.adapted),
        len(plan.allocations),
        f"{plan.trainable_parameters:,}",
        plan.trainable_percent,
    )
    return plan
