"""What was asked of a row, and whether it holds."""

import statistics
from typing import NamedTuple

from train_parts.duel import Found
from train_parts.rows import Row

LOSS_BAR = 1e-5
"""Largest difference of the losses, step by step."""
FULL_CPU, FULL_MEMORY = 1.02, 1.00
"""Over stock, where a plan reaches the lowest block: nothing can be left out, and nothing may be added."""
CPU_BARS = {"top half": 0.75, "top quarter": 0.60}
"""Over stock, of plans from there up, with checkpointing."""
SAVED_BARS = {"top half": 0.65}
"""Saved activations over stock, of the same plans."""


class Verdict(NamedTuple):
    """One number that was asked for."""

    what: str
    measured: float
    bar: float

    @property
    def holds(self) -> bool:
        """Within the bar; ratios as they are printed, with two decimals."""
        return (self.measured if self.what == "loss" else round(self.measured, 2)) <= self.bar


def round_ratios(ours: list[list[float]], theirs: list[list[float]]) -> list[float]:
    """Of each round the median over pairs of neighbouring steps, on which what else the machine does falls alike.

    Args:
        ours: Seconds, round by round and step by step.
        theirs: The same.

    Returns:
        Ours over theirs, ascending.
    """
    return sorted(
        statistics.median(one / other for one, other in zip(mine, their, strict=True))
        for mine, their in zip(ours, theirs, strict=True)
    )


def loss_difference(ours: list[float], theirs: list[float]) -> float:
    """The largest, over all steps.

    Args:
        ours: One a step.
        theirs: The same.

    Returns:
        Absolute.
    """
    return max(abs(one - other) for one, other in zip(ours, theirs, strict=True))


def verdicts(row: Row, found: dict[str, Found], *, lowest_block: int) -> list[Verdict]:
    """What was asked of a row.

    Args:
        row: What was compared.
        found: Side to its cost; `ours` and `stock`.
        lowest_block: That has an adapter.

    Returns:
        At least the losses.
    """
    ours, stock = found["ours"], found["stock"]
    asked = [Verdict("loss", loss_difference(ours.losses, stock.losses), LOSS_BAR)]
    cpu = statistics.median(round_ratios(ours.cpu, stock.cpu))
    if lowest_block == 0:
        return [*asked, Verdict("CPU", cpu, FULL_CPU), Verdict("memory", ours.peak / stock.peak, FULL_MEMORY)]
    if row.checkpointing and row.part in CPU_BARS:
        asked.append(Verdict("CPU", cpu, CPU_BARS[row.part]))
    if row.checkpointing and row.part in SAVED_BARS:
        asked.append(Verdict("saved", ours.saved / stock.saved, SAVED_BARS[row.part]))
    return asked
