"""How far two plans for one model are apart."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from spectral_ft.errors import PlanError
from spectral_ft.reporting.report_difference import jaccard
from spectral_ft.reporting.terminal import as_text
from spectral_ft.types import AllocationPlan

SHOWN = 8
"""Names in a cell of the table, at most."""


@dataclass(frozen=True)
class PlanDifference:
    """How far two plans are apart."""

    common: int
    """Matrices that both plans know, frozen or not."""
    jaccard: float
    """Overlap of the adapted matrices, in [0, 1]."""
    spearman: float | None
    """Rank correlation of the ranks over the common matrices, in [-1, 1]; a frozen one has rank 0."""
    reason: str | None
    """Why there is no rank correlation, where there is none."""
    trainable_before: int
    """Parameters."""
    trainable_after: int
    """Parameters."""
    adapted_in_both: int
    """Matrices."""
    only_before: tuple[str, ...]
    """Matrices that the first plan adapts and the second does not, in the order of the plan."""
    only_after: tuple[str, ...]
    """The reverse."""


def difference(before: AllocationPlan, after: AllocationPlan) -> PlanDifference:
    """Compare two plans for one model.

    Args:
        before: One plan.
        after: Another.

    Returns:
        Their overlap, the rank correlation of their ranks, and what only one of them adapts.

    Raises:
        PlanError: If they have no matrix in common.
    """
    from scipy.stats import spearmanr

    one, other = ({allocation.name: allocation.rank for allocation in plan.allocations} for plan in (before, after))
    common = [name for name in one if name in other]
    if not common:
        raise PlanError(
            f"the plans cannot be compared: none of the {len(one)} matrices of the first ({next(iter(one), 'none')}) "
            f"is among the {len(other)} of the second ({next(iter(other), 'none')}). Take two plans for one model."
        )
    pairs = [[ranks[name] for name in common] for ranks in (one, other)]
    constant = [
        f"the {which} plan gives rank {ranks[0]} to each of the {len(common)} common matrices"
        for which, ranks in zip(("first", "second"), pairs, strict=True)
        if len(set(ranks)) == 1
    ]
    here, there = ({allocation.name for allocation in plan.adapted} for plan in (before, after))
    return PlanDifference(
        common=len(common),
        jaccard=jaccard(here, there),
        spearman=None if constant else float(spearmanr(*pairs).statistic),
        reason=" and ".join(constant) or None,
        trainable_before=before.trainable_parameters,
        trainable_after=after.trainable_parameters,
        adapted_in_both=len(here & there),
        only_before=tuple(allocation.name for allocation in before.adapted if allocation.name not in there),
        only_after=tuple(allocation.name for allocation in after.adapted if allocation.name not in here),
    )


def difference_table(difference: PlanDifference, *, before: str, after: str) -> str:
    """How far two plans are apart.

    Args:
        difference: As `difference` gives it.
        before: What the first plan is called.
        after: What the second is called.

    Returns:
        Text for a terminal.
    """
    one, other = difference.only_before, difference.only_after
    table = Table(
        title=f"from {escape(before)} to {escape(after)}: {difference.common} common matrices", title_justify="left"
    )
    for heading in ("", escape(before), escape(after)):
        table.add_column(heading, justify="right" if heading else "left", overflow="fold")
    table.add_row("trainable parameters", f"{difference.trainable_before:,}", f"{difference.trainable_after:,}")
    table.add_row("adapted matrices", *(str(difference.adapted_in_both + len(names)) for names in (one, other)))
    table.add_row("only here", str(len(one)), str(len(other)))
    if one or other:
        table.add_row("", _names(one), _names(other))
    spearman = f"- ({difference.reason})" if difference.spearman is None else f"{difference.spearman:.4f}"
    return (
        as_text(table) + f"Jaccard of the adapted matrices {difference.jaccard:.3f}\nSpearman of the ranks {spearman}\n"
    )


def _names(names: Sequence[str]) -> str:
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return "\n".join([*names[:SHOWN], *more])
