"""Which differences of a table stand: to a baseline, and of the best to the next best, corrected together.

Testing the best against the next best with a two-sided test keeps its level however many arms there are.
Source: Hung and Fithian, Rank verification for exponential families, Annals of Statistics 47 (2019) 758.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from spectral_ft.reporting.measured import Measured
from spectral_ft.statistics.holm import with_holm
from spectral_ft.statistics.results import Difference
from spectral_ft.statistics.seeds import difference_over_seeds

LEVEL = 0.05
"""Of the tests of one table together."""
LOSSES = ("loss", "gold_loss", "gold_perplexity")
"""Metrics of which less is better."""
Place = tuple[str, str]
"""Arm and task."""


@dataclass(frozen=True)
class Ranking:
    """What the tests of a table say."""

    differences: Mapping[Place, Difference]
    """Of an arm less the baseline, with `p_holm`."""
    leads: Mapping[Place, Difference]
    """Of the best arm of a task less the next best, with `p_holm`."""

    def best(self, place: Place) -> bool:
        """Whether an arm is better on a task than every other.

        Args:
            place: Arm and task.

        Returns:
            True where it leads and its lead stands after Holm's correction over all tests of the table.
        """
        lead = self.leads.get(place)
        return lead is not None and lead.p_holm is not None and lead.p_holm < LEVEL


def ranking(found: Mapping[Place, Measured], tasks: Sequence[str], *, baseline: str | None) -> Ranking:
    """Test what a table shows, paired on items and, where both sides have the same, on seeds.

    Args:
        found: Arm and task to what was measured.
        tasks: Of the table.
        baseline: An arm; None tests the best alone.

    Returns:
        The tests, corrected together by Holm. Arms without single items are not tested.
    """
    tables = {place: one.values for place, one in found.items() if one.values is not None}
    leading: list[tuple[Place, Place]] = []
    compared: list[tuple[Place, Place]] = []
    for task in tasks:
        places = [place for place in tables if place[1] == task]
        ranked = sorted(places, key=lambda place: found[place].value, reverse=True)
        if ranked and found[ranked[0]].metric in LOSSES:
            ranked.reverse()
        leading += [(ranked[0], ranked[1])] if len(ranked) > 1 else []
        compared += [(place, base) for base in places if base[0] == baseline for place in places if place != base]
    pairs = list(dict.fromkeys([*leading, *compared]))  # a lead over the baseline is one test, shown twice
    tests = [
        difference_over_seeds(tables[one], tables[other], same_seeds=found[one].seeds == found[other].seeds)
        for one, other in tqdm(pairs, desc="testing", unit="difference", leave=False, disable=len(pairs) < 10)
    ]
    corrected = dict(zip(pairs, with_holm(tests), strict=True))
    return Ranking(
        differences={pair[0]: corrected[pair] for pair in compared},
        leads={pair[0]: corrected[pair] for pair in leading},
    )
