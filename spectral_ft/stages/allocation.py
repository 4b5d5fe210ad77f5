"""Report and probe to `plan.json`."""

import logging
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

from spectral_ft.allocation.fitting import fitted, units
from spectral_ft.allocation.grouping import check_groups
from spectral_ft.errors import PlanError
from spectral_ft.experiment import Costed, PlanParts
from spectral_ft.methods.seam import BaseModel
from spectral_ft.storage import enter, read_json, write_json
from spectral_ft.types import AllocationPlan, MatrixAllocation, Probe, SpectralReport

log = logging.getLogger(__name__)
EDITED = "Give planning.edited=true if you edited it, or remove it to have it made again by the same command."


def plan_allocation(
    parts: PlanParts,
    base: BaseModel,
    report: SpectralReport,
    probe: Probe | None,
    *,
    folder: Path,
    edited: bool = False,
) -> AllocationPlan:
    """Policy, grouping, budget, learning rates, and what the method makes of it.

    Args:
        parts: What makes the plan.
        base: The model, for counting.
        report: Of its matrices, with the probe's columns.
        probe: For groupings by gradients; None where nothing asked for it.
        folder: Of the run; a plan that lies there is taken, counted again.
        edited: Whether that plan may have been changed since it was written.

    Returns:
        The plan.

    Raises:
        Damaged: If the plan that lies there is not what was written, and was not said to be edited.
    """
    path = folder / "plan.json"
    if path.exists():
        if edited:
            enter(folder, path.name)
        plan = checked(read_json(path, AllocationPlan, way_out=EDITED), parts, base, path)
    else:
        adaptable(parts, base, report, log_them=True)
        plan = plan_of(parts, base, report, probe)
    write_json(path, plan, home=folder)
    log.info(
        "allocated %d of %d matrices, %s parameters (%.3f %%)",
        len(plan.adapted),
        len(plan.allocations),
        f"{plan.trainable_parameters:,}",
        plan.trainable_percent,
    )
    return plan


def plan_of(parts: PlanParts, base: BaseModel, report: SpectralReport, probe: Probe | None) -> AllocationPlan:
    """Make a plan.

    Args:
        parts: What makes it.
        base: The model, for counting.
        report: Of its matrices, with the probe's columns.
        probe: For groupings by gradients.

    Returns:
        The plan, within its budget. A matrix that cannot be adapted stays frozen.

    Raises:
        PlanError: If no matrix can be adapted, or the policy names only some that cannot.
    """
    whole_report, report = report, adaptable(parts, base, report)
    allocations = parts.grouping.group(parts.rank_policy.allocate(report), report, probe)
    target = parts.budget.target(base.parameters)
    if parts.budget.kind == "match":
        target = plan_of(parts.budget.of, base, report, probe).trainable_parameters
    if target is not None:
        allocations = _within(target, allocations, parts, base, report)
    given = {allocation.name: allocation for allocation in parts.lr_by.scale(allocations, report)}
    names = [spectrum.matrix.name for spectrum in whole_report.matrices]
    return parts.method.plan(tuple(given.get(name) or MatrixAllocation(name, 0, 0.0) for name in names), base)


def adaptable(parts: PlanParts, base: BaseModel, report: SpectralReport, *, log_them: bool = False) -> SpectralReport:
    """The report without the matrices to which the method cannot do anything.

    Args:
        parts: What makes the plan.
        base: The model.
        report: Of all its matrices.
        log_them: Say in the log what is left out, and why.

    Returns:
        What policies choose from.

    Raises:
        PlanError: If nothing is left, or the policy names only what is left out.
    """
    if parts.method.takes.ranks == "none":
        return report
    reasons = base.obstacles(parts.method.takes.ranks == "whole")
    kept = tuple(spectrum for spectrum in report.matrices if spectrum.matrix.name not in reasons)
    left_out = [spectrum for spectrum in report.matrices if spectrum.matrix.name in reasons]
    if not left_out:
        return report
    targets = getattr(parts.rank_policy, "target_modules", None)
    known = {spectrum.matrix.type for spectrum in kept}
    named = [
        s for s in left_out if isinstance(targets, list) and s.matrix.type in targets and s.matrix.type not in known
    ]
    if named or not kept:
        first = (named or left_out)[0].matrix
        raise PlanError(
            f"rank_policy.target_modules={targets}: {first.type} cannot be adapted by method={parts.method.name} "
            f"({first.name}: {reasons[first.name]}). Name other module types, or null for all that can be."
        )
    if log_them:
        types: dict[str, Counter[str]] = defaultdict(Counter)
        for spectrum in left_out:
            types[reasons[spectrum.matrix.name]][spectrum.matrix.type] += 1
        log.info(
            "left out %d of %d matrices, which method=%s cannot adapt: %s",
            len(left_out),
            len(report.matrices),
            parts.method.name,
            "; ".join(
                f"{', '.join(f'{count} {kind}' for kind, count in counted.items())} ({reason})"
                for reason, counted in types.items()
            ),
        )
    return replace(report, matrices=kept)


def checked(plan: AllocationPlan, parts: PlanParts, base: BaseModel, path: Path) -> AllocationPlan:
    """A plan that was read, which somebody may have edited: its names and ranks checked, its parameters counted again.

    Args:
        plan: As it was read.
        parts: The method that counts.
        base: The model.
        path: Of the file, for errors.

    Returns:
        The plan.

    Raises:
        PlanError: If it has a matrix that the model has not, misses or repeats one, has a rank above the smaller
            side, or a group that cannot be.
    """
    matrices = {matrix.name: matrix for matrix in base.matrices}
    names = [allocation.name for allocation in plan.allocations]
    if unknown := sorted(set(names) - set(matrices)):
        raise PlanError(
            f"{path} has {unknown[0]}, which is none of the {len(matrices)} matrices of this model (a name is "
            f"{base.matrices[0].name}). Correct it, or remove the file to have it made again."
        )
    if missing := sorted(set(matrices) - set(names)):
        raise PlanError(f"{path} lacks {missing[0]}: give it rank 0 to freeze it, or remove the file.")
    if len(names) != len(set(names)):
        twice = next(name for name in names if names.count(name) > 1)
        raise PlanError(f"{path} has {twice} twice: keep one of them.")
    for allocation in plan.adapted:
        largest = matrices[allocation.name].smaller_side
        if allocation.rank > largest and parts.method.takes.ranks != "none":
            raise PlanError(
                f"{path} gives {allocation.name} rank {allocation.rank}, above its smaller side, which is {largest}."
            )
        if not allocation.lora_alpha and parts.method.takes.ranks != "none":
            raise PlanError(
                f"{path} gives {allocation.name} rank {allocation.rank} and lora_alpha 0, which would train "
                "nothing: give it an alpha, or rank 0."
            )
        if allocation.group is not None and not parts.method.takes.groups:
            raise PlanError(
                f"{path} puts {allocation.name} into group {allocation.group}, and method={parts.method.name} cannot "
                "share factors: leave group and shares null."
            )
    check_groups(plan.allocations, base.matrices)
    return parts.method.plan(plan.allocations, base)


def _within(
    target: int,
    allocations: tuple[MatrixAllocation, ...],
    parts: PlanParts,
    base: BaseModel,
    report: SpectralReport,
) -> tuple[MatrixAllocation, ...]:
    if not isinstance(parts.method, Costed):
        raise PlanError(f"method={parts.method.name} cannot keep a budget: use budget=none.")
    costs = {matrix.name: parts.method.cost(matrix) for matrix in base.matrices}
    rest = target - base.head_parameters
    paid = units(allocations, base.matrices, costs)
    if parts.method.takes.ranks == "one":
        # The highest rank that all can have, with one above it that can be taken away.
        payable = (rest - sum(unit.fixed for unit in paid)) // sum(unit.per_rank for unit in paid)
        highest = min(payable, *(unit.largest_rank - 1 for unit in paid))
        if highest >= 1:
            return tuple(_of_rank(a, highest) if a.rank else a for a in allocations)
    if parts.method.takes.ranks != "whole":
        return fitted(allocations, paid, target, heads=base.head_parameters)
    # Whole matrices: the policy's first ones first, each that still fits.
    kept, left = set(), rest
    for name in _by_preference(allocations, parts, report):
        if costs[name].fixed <= left:
            kept.add(name)
            left -= costs[name].fixed
    if not kept:
        raise PlanError(
            f"the budget of {target:,} parameters is below the smallest of the {sum(a.rank > 0 for a in allocations)} "
            f"selected matrices ({min(costs[a.name].fixed for a in allocations if a.rank):,}): raise budget.value."
        )
    return tuple(a if a.name in kept else MatrixAllocation(a.name, 0, 0.0) for a in allocations)


def _of_rank(allocation: MatrixAllocation, rank: int) -> MatrixAllocation:
    return replace(allocation, rank=rank, lora_alpha=allocation.lora_alpha / allocation.rank * rank)


def _by_preference(allocations: tuple[MatrixAllocation, ...], parts: PlanParts, report: SpectralReport) -> list[str]:
    # Highest rank first, then the highest value of the columns that the policy reads, then by name.
    values = {spectrum.matrix.name: spectrum.columns for spectrum in report.matrices}

    def key(allocation: MatrixAllocation) -> tuple[float, ...]:
        columns = [values[allocation.name].get(column) for column in sorted(parts.rank_policy.reads)]
        return (-allocation.rank, *(-(value if value is not None else float("-inf")) for value in columns))

    return [a.name for a in sorted((a for a in allocations if a.rank), key=lambda a: (key(a), a.name))]
