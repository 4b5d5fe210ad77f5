"""Which matrices may share an adapter, the check of those that do, and the grouping that lets none.

A *share class* holds the matrices among which sharing means something: the same shape, and the same module
type (`by: type`) or the same side of the residual stream (`by: shape`).
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spectral_ft.errors import PlanError
from spectral_ft.types import MatrixAllocation, MatrixShape, Probe, Shares, SpectralReport

By = Literal["type", "shape"]
"""What the members of a share class have in common besides their shape: module type, or side."""
FACTORS: Mapping[str, Shares] = {"reads": "A", "writes": "B"}
"""By side: the factor that touches the residual stream."""
EQUAL_IN_A_GROUP = ("rank", "lora_alpha", "lr_multiplier", "shares")
"""Fields of an allocation: a shared factor has one rank, is scaled alike, is stepped once."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Ungrouped:
    """Every matrix has its own."""

    reads: ClassVar[frozenset[str]] = frozenset()
    """Columns of the report."""
    reads_sketches: ClassVar[bool] = False
    """Of the probe."""

    def group(
        self, allocations: tuple[MatrixAllocation, ...], report: SpectralReport, probe: Probe | None
    ) -> tuple[MatrixAllocation, ...]:
        """Leave the allocations as they are.

        Args:
            allocations: Of the policy.
            report: Of the model; not used.
            probe: Not used.

        Returns:
            The same.
        """
        del report, probe
        return allocations


def share_label(matrix: MatrixShape, by: By) -> str:
    """What a share class is called.

    Args:
        matrix: Any of its members.
        by: What they have in common.

    Returns:
        The module type, or side and shape as in `reads-576x192`.
    """
    return {"type": matrix.type, "shape": "{}-{}x{}".format(matrix.side, *matrix.sides)}[by]


def share_classes(
    matrices: Iterable[MatrixShape], *, by: By, also_equal: Mapping[str, Hashable] | None = None
) -> list[list[MatrixShape]]:
    """Sort matrices into their share classes.

    Args:
        matrices: In any order.
        by: What the members of a class have in common besides shape and side.
        also_equal: Module name to what else must be equal within a class.

    Returns:
        The classes, in the order of their first members; members by block, then by name.
    """
    classes: dict[Hashable, list[MatrixShape]] = defaultdict(list)
    for matrix in sorted(matrices, key=lambda matrix: (matrix.block, matrix.name)):
        own = also_equal[matrix.name] if also_equal is not None else None
        classes[share_label(matrix, by), matrix.side, matrix.sides, own].append(matrix)
    return list(classes.values())


def residual_factor(matrix: MatrixShape) -> Shares:
    """The low-rank factor on the side of the residual stream.

    Args:
        matrix: That reads it, or writes it.

    Returns:
        A (rank, d_in) of a reader, B (d_out, rank) of a writer.

    Raises:
        PlanError: If its side is not known.
    """
    if matrix.side == "unknown":
        raise PlanError(
            f"grouping.share=residual_side: whether {matrix.name} reads or writes the residual stream is not known, "
            "so neither is the factor to share: take grouping.share=pair."
        )
    return FACTORS[matrix.side]


def group_names(groups: Iterable[Sequence[MatrixShape]], *, by: By) -> dict[str, str]:
    """Name groups by what they are of and a number from the lowest block up, as in `self_attn.q_proj/0`.

    Args:
        groups: Members of one share class each, the first first.
        by: What the members of a share class have in common.

    Returns:
        Module name to group.
    """
    numbers: Counter[str] = Counter()
    names: dict[str, str] = {}
    for members in sorted(groups, key=lambda members: (members[0].block, members[0].name)):
        label = share_label(members[0], by)
        names |= dict.fromkeys((matrix.name for matrix in members), f"{label}/{numbers[label]}")
        numbers[label] += 1
    return names


def check_groups(allocations: Sequence[MatrixAllocation], matrices: Sequence[MatrixShape]) -> None:
    """Check that what is to be shared can be.

    Args:
        allocations: Of a plan, with or without groups.
        matrices: Of the model.

    Raises:
        PlanError: If a group has one member, a member that is frozen or no matrix of the model, no word on what is
            shared, or members of unequal shape, rank, lora_alpha, learning-rate multiplier or shares.
    """
    shapes = {matrix.name: matrix.sides for matrix in matrices}
    groups: dict[str, list[MatrixAllocation]] = defaultdict(list)
    for allocation in allocations:
        if allocation.group is None:
            if allocation.shares is not None:
                raise PlanError(
                    f"{allocation.name} has shares={allocation.shares} but no group: name one, or no shares."
                )
            continue
        groups[allocation.group].append(allocation)
        member = f"{allocation.name} of group {allocation.group}"
        if allocation.shares is None:
            raise PlanError(f"{member} does not say what is shared: give it shares, one of AB, A and B.")
        if not allocation.rank:
            raise PlanError(f"{member} has rank 0: give it the rank of the others, or take it out of the group.")
        if allocation.name not in shapes:
            raise PlanError(
                f"{member} is none of the model's {len(shapes)} matrices: was the plan made for this model?"
            )
    for group, members in groups.items():
        first, *others = members
        if not others:
            raise PlanError(f"group {group} has one member, {first.name}: a group needs two, so name none for it.")
        for other in others:
            if shapes[first.name] != shapes[other.name]:
                raise PlanError(
                    f"group {group} has members of unequal shape: {first.name} is {shapes[first.name]}, "
                    f"{other.name} is {shapes[other.name]}; put them in groups of their own."
                )
            for field in EQUAL_IN_A_GROUP:
                here, there = getattr(first, field), getattr(other, field)
                if here != there:
                    raise PlanError(
                        f"group {group} has members of unequal {field}: {first.name} has {here}, {other.name} has "
                        f"{there}; make them equal, or put them in groups of their own."
                    )
