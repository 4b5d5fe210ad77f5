"""Two arms beside each other: which items only one of them has right."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from tqdm import tqdm

from spectral_ft.reporting.page.arms import Arm
from spectral_ft.reporting.page.scores import Score, Scores, difference
from spectral_ft.reporting.samples import Key
from spectral_ft.reporting.score_table import ACCURACIES
from spectral_ft.statistics.holm import with_holm
from spectral_ft.statistics.results import Difference

PAIRS = 15
"""On a page, at most: all of six arms. Of more arms the first and the best are set beside all others."""


@dataclass(frozen=True)
class Pair:
    """One task of two arms."""

    key: Key
    first: Score
    other: Score
    found: Difference
    """First less other, p by Holm over all pairs of arms and their tasks, on the page or not."""
    only_first: tuple[int, ...]
    """Ids of the items that more seeds of the first have right, the clearest first."""
    only_other: tuple[int, ...]


def pairs_of(arms: Sequence[Arm], scores: Scores) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """Arms two by two, on the leading accuracy of each task.

    Args:
        arms: All.
        scores: Of them, with their items.

    Returns:
        The pairs, those of two arms together; sentences of what could not be compared.
    """
    keys = [key for key in scores.leading if key[1] in ACCURACIES]
    scored = [arm for arm in arms if any(scores.counting(arm, key) for key in keys)]
    every = list(combinations(scored, 2))
    chosen, left_out = every, []
    notes: dict[str, None] = {}
    if len(chosen) > PAIRS:
        ends = {scored[0].name, max(scored, key=lambda arm: _mean(scores, arm, keys)).name}
        chosen = [pair for pair in every if ends & {arm.name for arm in pair}]
        left_out = [pair for pair in every if not ends & {arm.name for arm in pair}]
        said = f"{len(chosen)} of {len(every)} pairs are here: {' and '.join(sorted(ends))} with all others"
        notes[f"{said}; p is corrected over all {len(every)}."] = None
    found = []
    for (one, two), key in tqdm(
        [(pair, key) for pair in chosen for key in keys], desc="pairs", unit="pair", leave=False
    ):
        first, other = scores.counting(one, key), scores.counting(two, key)
        if first is None or other is None:
            continue
        compared = difference(first, other)
        if compared is None:
            notes[f"{one.name} and {two.name} were not scored on the same items of {key[0]}, or lack them."] = None
            continue
        found.append(Pair(key, first, other, compared, *_apart(first, other)))
    hidden = sum(bool(scores.counting(one, key) and scores.counting(two, key)) for one, two in left_out for key in keys)
    corrected = with_holm([pair.found for pair in found], tests=len(found) + hidden)
    return (
        tuple(
            Pair(pair.key, pair.first, pair.other, difference, pair.only_first, pair.only_other)
            for pair, difference in zip(found, corrected, strict=True)
        ),
        tuple(notes),
    )


def _apart(first: Score, other: Score) -> tuple[tuple[int, ...], tuple[int, ...]]:
    two = other.by_item
    gap = {item: float(values.mean() - two[item].mean()) for item, values in first.by_item.items()}
    ahead = sorted((item for item in gap if gap[item] > 0), key=lambda item: (-gap[item], item))
    behind = sorted((item for item in gap if gap[item] < 0), key=lambda item: (gap[item], item))
    return tuple(ahead), tuple(behind)


def _mean(scores: Scores, arm: Arm, keys: Sequence[Key]) -> float:
    values = [score.value for key in keys if (score := scores.counting(arm, key))]
    return float(np.mean(values)) if values else 0.0
