"""An allocation plan as text for a terminal: a table of its counts, and what a training step of it takes."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

from rich.table import Table

from spectral_ft.reporting.rank_map import group_letters, plan_grid
from spectral_ft.reporting.terminal import as_text
from spectral_ft.types import AllocationPlan, MatrixShape


class Step(Protocol):
    """What a training step takes, as `stages.planning` estimates it."""

    @property
    def memory(self) -> Mapping[str, int]:
        """Part to bytes."""
        ...

    @property
    def flops(self) -> int:
        """Of one micro batch."""
        ...

    @property
    def backward(self) -> str:
        """How far it goes."""
        ...

    @property
    def usual_flops(self) -> int | None:
        """Of a backward through all blocks, where this one stops earlier."""
        ...

    @property
    def usual_activations(self) -> int | None:
        """Bytes, likewise."""
        ...


def plan_table(plan: AllocationPlan, matrices: Sequence[MatrixShape], memory: Mapping[str, int] | None) -> str:
    """How many matrices of each module type are adapted, their ranks, and what the plan costs.

    Args:
        plan: Of the model.
        matrices: Of the model.
        memory: Part to estimated bytes in training; None where it was not estimated.

    Returns:
        Text for a terminal.

    Raises:
        PlanError: If the plan names a matrix that the model does not have.
    """
    by_type: dict[str, list[int]] = defaultdict(list)
    for (_, kind), members in plan_grid(plan, matrices).items():
        by_type[kind] += [member.rank for member in members]
    table = Table(title="matrices and ranks by module type", title_justify="left")
    for heading in ("type", "adapted", "lowest rank", "median", "highest"):
        table.add_column(heading, justify="left" if heading == "type" else "right")
    for kind, ranks in by_type.items():
        table.add_row(kind, *_counts(ranks))
    table.add_section()
    table.add_row("all", *_counts([rank for ranks in by_type.values() for rank in ranks]))
    facts = Table.grid(padding=(0, 2))
    facts.add_row("trainable parameters", f"{plan.trainable_parameters:,} ({plan.trainable_percent:.3f} % of all)")
    facts.add_row("adapter parameters", f"{plan.adapter_parameters:,}")
    facts.add_row("base parameters", f"{plan.base_parameters:,}")
    if groups := group_letters(plan):
        grouped = sum(allocation.group is not None for allocation in plan.adapted)
        facts.add_row("groups", f"{len(groups)}, of {grouped} matrices")
    for part, size in (memory or {}).items():
        facts.add_row(f"estimated memory, {part}", _size(size))
    if memory is not None:
        facts.add_row("estimated memory, total", _size(sum(memory.values())))
    return as_text(table) + as_text(facts)


def step_lines(step: Step) -> str:
    """How far backward goes, and what that saves.

    Args:
        step: What a training step takes.

    Returns:
        Text for a terminal.
    """
    lines = [step.backward, f"{step.flops / 1e9:,.1f} GFLOP a micro batch, forward and backward"]
    if step.usual_flops is not None and step.usual_activations is not None:
        lines[1] += (
            f", {step.flops / step.usual_flops:.2f} x those of a backward through all blocks; activations "
            f"{_size(step.memory['activations'])} instead of {_size(step.usual_activations)}"
        )
    elif step.backward:
        lines[1] += "; rank_policy.lowest_block=N would stop it earlier"
    return "\n".join(lines) + "\n"


def _counts(ranks: Sequence[int]) -> tuple[str, ...]:
    given = [rank for rank in ranks if rank]
    spread = (f"{end(given):g}" for end in (min, statistics.median, max)) if given else ("-", "-", "-")
    return f"{len(given)} of {len(ranks)}", *spread


def _size(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
