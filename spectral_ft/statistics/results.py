"""What a statistic of scores says: one frozen type for a number, one for a difference."""

from dataclasses import dataclass
from typing import Literal

Over = Literal["items", "seeds", "seeds and items"]
"""What the interval counts as drawn by chance. `items`: it says nothing of what another seed would give; `seeds`: of
what other items would."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval."""

    value: float
    low: float
    high: float
    items: int
    seeds: int
    over: Over
    """What the interval is over; `items` wherever there is one seed only."""


@dataclass(frozen=True)
class Difference:
    """The mean of one side less the mean of the other, on the same items."""

    difference: float
    low: float
    high: float
    p: float
    """Two-sided, of no difference."""
    test: str
    """That gave `p`."""
    items: int
    seeds: int
    """Of the side that has fewer."""
    over: Over
    """What interval and p are over; `items` wherever a side has one seed only."""
    shares: bool
    """Whether every value is right or wrong (1 or 0), rather than a loss."""
    only_first: int | None = None
    """Items right on the first side only; None where seeds differ, and for losses."""
    only_other: int | None = None
    """The reverse."""
    p_holm: float | None = None
    """p corrected for all differences of one table; None before `with_holm`."""

    @property
    def below_one_question(self) -> bool:
        """Whether it is smaller than one right answer, 1 / items: no difference to speak of. False for losses."""
        return self.shares and abs(self.difference) * self.items < 1 - 1e-9  # a mean of n items is off by rounding
