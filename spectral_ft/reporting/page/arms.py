"""The rows of a comparison: an arm and its runs, one a seed."""

from collections.abc import Sequence
from dataclasses import dataclass

from spectral_ft.reporting.page.views import Legend, Style
from spectral_ft.reporting.records import RunFolder


@dataclass(frozen=True)
class Arm:
    """One row of a table."""

    name: str
    style: Style
    runs: tuple[RunFolder, ...]
    """All of them, by seed; whatever became of them."""

    @property
    def finished(self) -> tuple[RunFolder, ...]:
        """The runs that have a record."""
        return tuple(run for run in self.runs if run.result is not None)


def arms_of(runs: Sequence[RunFolder]) -> tuple[Arm, ...]:
    """Runs by arm.

    Args:
        runs: In any order.

    Returns:
        The arms, in the order in which they are met first, so that their looks stay when runs are added at the end.
    """
    by_name: dict[str, list[RunFolder]] = {}
    for run in runs:
        by_name.setdefault(run.arm, []).append(run)
    return tuple(
        Arm(name, Style(number), tuple(sorted(members, key=_by_seed)))
        for number, (name, members) in enumerate(by_name.items())
    )


def legend(arms: Sequence[Arm]) -> tuple[Legend, ...]:
    """What the colours mean.

    Args:
        arms: Those that are drawn.

    Returns:
        One an arm.
    """
    return tuple(Legend(arm.name, arm.style) for arm in arms)


def run_name(run: RunFolder) -> str:
    """What a run is called in a sentence.

    Args:
        run: The run.

    Returns:
        Its arm and seed.
    """
    return f"{run.arm}, seed {'?' if run.seed is None else run.seed}"


def _by_seed(run: RunFolder) -> tuple[int, str]:
    return (-1 if run.seed is None else run.seed, str(run.folder))
