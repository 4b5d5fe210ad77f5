"""What a training set has in common with test sets."""

from typing import Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from spectral_ft.types.strictness import STRICT


@dataclass(frozen=True, config=STRICT)
class Match:
    """A text that stands in the training set and, the same or nearly the same, in a test set."""

    kind: Literal["exact", "near"]
    similarity: float
    """Jaccard similarity of the words that count; 1 where exact."""
    training: tuple[int, ...]
    """Training rows that hold it, from 0."""
    test: tuple[int, ...]
    """Test items that ask it, from 0."""


@dataclass(frozen=True, config=STRICT)
class TaskOverlap:
    """What training set and test set of one task have in common."""

    task: str
    items: int | None
    """Test items that were compared; None where they are asked in no form that could be."""
    matches: tuple[Match, ...]
    counts: dict[str, int] = Field(default_factory=dict)
    """`exact_items`, `near_items`: test items found, near ones beyond the exact; `exact_rows`, `near_rows`: training
    rows concerned, likewise. Computed."""

    def __post_init__(self) -> None:
        """Count, whatever a file says."""
        counts: dict[str, int] = {}
        for name, side in (("items", "test"), ("rows", "training")):
            exact, near = (
                {place for match in self.matches if match.kind == kind for place in getattr(match, side)}
                for kind in ("exact", "near")
            )
            counts |= {f"exact_{name}": len(exact), f"near_{name}": len(near - exact)}
        object.__setattr__(self, "counts", counts)


@dataclass(frozen=True, config=STRICT)
class Overlap:
    """What training set and test sets of a run have in common."""

    dataset: str
    rows: int
    """Training rows that were compared, held-out ones included."""
    threshold: float
    """Least similarity of near duplicates."""
    dropped: bool
    """Whether the rows concerned were left out of training and validation."""
    tasks: tuple[TaskOverlap, ...]

    @property
    def concerned(self) -> frozenset[int]:
        """Training rows that are test items, of any task."""
        return frozenset(row for task in self.tasks for match in task.matches for row in match.training)

    @property
    def summary(self) -> dict[str, Any]:
        """In counts, for the record."""
        return {
            "dataset": self.dataset,
            "rows": self.rows,
            "concerned_rows": len(self.concerned),
            "dropped_rows": len(self.left_out),
            "threshold": self.threshold,
            "tasks": {
                task.task: None if task.items is None else {"items": task.items, **task.counts} for task in self.tasks
            },
        }

    @property
    def left_out(self) -> frozenset[int]:
        """Training rows that are neither trained on nor held out."""
        return self.concerned if self.dropped else frozenset()
