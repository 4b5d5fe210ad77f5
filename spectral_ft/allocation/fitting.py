"""Ranks that cost a given number of parameters, in the proportions that a policy chose.

The ideal rank of a matrix is `c w` with `w` the policy's rank and `c` one number for all, at least 1 and at most
the smaller side. It is rounded down, and what is left goes out one rank at a time.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from spectral_ft.errors import PlanError
from spectral_ft.types import Cost, MatrixAllocation, MatrixShape

BISECTIONS = 200
ROUNDING = 1e-9
"""An ideal rank of 7.9999999999 is 8."""


class Unit(NamedTuple):
    """Matrices that have one rank together: a group, or a single one."""

    names: tuple[str, ...]
    weight: int
    """The policy's rank."""
    per_rank: int
    """Parameters of one rank; what a group shares counts once."""
    fixed: int
    largest_rank: int


def units(
    allocations: Sequence[MatrixAllocation], matrices: Sequence[MatrixShape], costs: Mapping[str, Cost]
) -> list[Unit]:
    """What is paid for together.

    Args:
        allocations: One a matrix; frozen ones cost nothing.
        matrices: Of the model.
        costs: By module name.

    Returns:
        One entry a group or ungrouped matrix, by first name.
    """
    smaller_side = {matrix.name: matrix.smaller_side for matrix in matrices}
    members: dict[str, list[MatrixAllocation]] = defaultdict(list)
    for allocation in allocations:
        if allocation.rank:
            members[f"group {allocation.group}" if allocation.group else allocation.name].append(allocation)
    found = []
    for together in members.values():
        first, names = together[0], sorted(member.name for member in together)
        rows, columns = [costs[name].a for name in names], [costs[name].b for name in names]
        found.append(
            Unit(
                names=tuple(names),
                weight=first.rank,
                per_rank=(rows[0] if "A" in (first.shares or "") else sum(rows))
                + (columns[0] if "B" in (first.shares or "") else sum(columns)),
                fixed=sum(costs[name].fixed for name in names),
                largest_rank=min(smaller_side[name] for name in names),
            )
        )
    return sorted(found)


def parameters(parts: Sequence[Unit]) -> int:
    """What units cost at the policy's ranks.

    Args:
        parts: The units.

    Returns:
        The number of parameters.
    """
    return sum(unit.weight * unit.per_rank + unit.fixed for unit in parts)


def fitted(
    allocations: tuple[MatrixAllocation, ...], parts: Sequence[Unit], target: int, *, heads: int = 0
) -> tuple[MatrixAllocation, ...]:
    """Scale the ranks of a plan to a number of parameters.

    `lora_alpha / rank` stays what the policy said. What is left after rounding down goes out by the largest
    remainders, ties by name, to whatever it still pays for, until it pays for nothing: what is unused is less than
    the cheapest rank that could still be given. Units of one weight get ranks that differ by at most one, unless
    only a second rank for a cheap one could use what is left.

    Args:
        allocations: Of the policy; frozen ones stay frozen.
        parts: Their units.
        target: Parameters that may be trained.
        heads: Parameters among them that are trained beside the adapters.

    Returns:
        The allocations with their new ranks.

    Raises:
        PlanError: If not even rank 1 each fits.
    """
    rest = target - heads - sum(unit.fixed for unit in parts)
    least = sum(unit.per_rank for unit in parts)
    if rest < least:
        raise PlanError(
            f"the budget of {target:,} parameters is below rank 1 for each of the {len(parts)} adapters of the plan, "
            f"which takes {target - rest + least:,}: raise budget.value, or adapt fewer matrices."
        )
    ideal = _ideal(parts, rest)
    ranks = [int(rank + ROUNDING) for rank in ideal]
    left = rest - sum(rank * unit.per_rank for rank, unit in zip(ranks, parts, strict=True))
    order = sorted(range(len(parts)), key=lambda i: (round(ranks[i] - ideal[i], 9), parts[i].names))
    left = _hand_out(ranks, parts, order, left)
    left = _exchange(ranks, parts, [i for i in order if ranks[i] <= ideal[i]], left)
    while (rest_left := _hand_out(ranks, parts, order, left)) < left:
        left = rest_left
    new = {name: rank for rank, unit in zip(ranks, parts, strict=True) for name in unit.names}
    return tuple(
        replace(a, rank=new[a.name], lora_alpha=a.lora_alpha / a.rank * new[a.name]) if a.rank else a
        for a in allocations
    )


def _ideal(parts: Sequence[Unit], rest: int) -> list[float]:
    def at(scale: float) -> list[float]:
        return [min(max(scale * unit.weight, 1.0), float(unit.largest_rank)) for unit in parts]

    low, high = 0.0, float(max(unit.largest_rank / unit.weight for unit in parts))
    if sum(unit.per_rank * unit.largest_rank for unit in parts) <= rest:
        return at(high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        price = sum(rank * unit.per_rank for rank, unit in zip(at(middle), parts, strict=True))
        low, high = (middle, high) if price <= rest else (low, middle)
    return at(low)


def _hand_out(ranks: list[int], parts: Sequence[Unit], order: Sequence[int], left: int) -> int:
    # One more rank for each that can be paid, in this order; returns what is left.
    for i in order:
        if parts[i].per_rank <= left and ranks[i] < parts[i].largest_rank:
            ranks[i] += 1
            left -= parts[i].per_rank
    return left


def _exchange(ranks: list[int], parts: Sequence[Unit], without: Sequence[int], left: int) -> int:
    # A unit that got no rank may take one back from a cheaper one of its weight, where that uses more of what is left.
    for i in without:
        for j, other in enumerate(parts):
            gain = parts[i].per_rank - other.per_rank
            if other.weight == parts[i].weight and 0 < gain <= left and ranks[j] == ranks[i] + 1:
                if ranks[i] < parts[i].largest_rank:
                    ranks[i], ranks[j], left = ranks[i] + 1, ranks[j] - 1, left - gain
                break
    return left
