"""Runs beside other runs, item by item: two folders, or the seeds of one thing and of another."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from spectral_ft.errors import ConfigError, DataError, RunError
from spectral_ft.reporting.compared import Compared, Comparison
from spectral_ft.reporting.samples import ItemValues, item_table, item_values, read_scores, stage_scores
from spectral_ft.statistics.hierarchical import bootstrap_difference, bootstrap_mean
from spectral_ft.statistics.holm import with_holm
from spectral_ft.statistics.results import Difference, Estimate
from spectral_ft.statistics.seeds import difference_over_seeds, mean_over_seeds
from spectral_ft.storage import read_json
from spectral_ft.types import RunResult, Stage

FOLLOWS = ("gold_perplexity", "unfinished")
"""Metrics that say again what another one says (`gold_loss`), or belong to the run and not to an item's rightness."""

OverSeeds = Literal["t", "bootstrap"]
PROCEDURES: Mapping[str, tuple[Callable[..., Estimate], Callable[..., Difference]]] = {
    "t": (mean_over_seeds, difference_over_seeds),
    "bootstrap": (bootstrap_mean, bootstrap_difference),
}
"""How several seeds are averaged and compared; both do the same with one seed a side."""


def compare_runs(
    first: Sequence[Path],
    other: Sequence[Path],
    *,
    stages: tuple[Stage, Stage] = ("tuned", "tuned"),
    over_seeds: OverSeeds = "t",
) -> Comparison:
    """Compare runs on the items that they were scored on.

    One run a side is compared over items, several over seeds and items (docs/statistics.md). Sides with the same
    seeds are paired on them. p-values are corrected by Holm over all rows.

    Args:
        first: Folders of runs that differ in their seed alone.
        other: Of the other side.
        stages: Which scores of either side: base or tuned.
        over_seeds: By which procedure several seeds are compared.

    Returns:
        The comparison.

    Raises:
        ConfigError: If there is no such procedure.
        DataError: If runs were not scored on the same items, samples are missing, or no score is common.
        RunError: If a folder holds no scores, or no record where seeds are needed, or a side has a seed twice.
    """
    if over_seeds not in PROCEDURES:
        raise ConfigError(f"over_seeds={over_seeds!r} is no procedure: there is {', '.join(PROCEDURES)}.")
    if not first or not other:
        raise RunError("a side without a run cannot be compared: give a folder.")
    sides, same_seeds = _in_order(first, other)
    scored = [
        [stage_scores(read_scores(folder), stage) for folder in folders]
        for folders, stage in zip(sides, stages, strict=True)
    ]
    runs = [(folder, scores) for side in zip(sides, scored, strict=True) for folder, scores in zip(*side, strict=True)]
    keys = dict.fromkeys(key for _, scores in runs for key in scores if key[1] not in FOLLOWS)
    rows, skipped = [], []
    for key in tqdm(keys, desc="comparing", unit="score", leave=False, disable=len(keys) == 1):
        if lacking := [folder for folder, scores in runs if key not in scores]:
            skipped.append(f"{' '.join(key)} is not among the scores of {lacking[0]}.")
            continue
        items = [item_values(folder, scores[key]) for folder, scores in runs]
        if reasons := [each for each in items if isinstance(each, str)]:
            skipped.append(reasons[0])
            continue
        table = item_table([folder for folder, _ in runs], [each for each in items if isinstance(each, ItemValues)])
        one, two = table[: len(sides[0])], table[len(sides[0]) :]
        mean, difference = PROCEDURES[over_seeds]
        rows.append(Compared(*key, mean(one), mean(two), difference(one, two, same_seeds=same_seeds)))
    if not rows:
        why = " ".join(skipped) or f"neither has scores of {' and '.join(dict.fromkeys(stages))}."
        raise DataError(f"{sides[0][0]} and {sides[1][0]} have nothing to compare: {why}")
    corrected = with_holm([row.difference for row in rows])
    return Comparison(
        rows=tuple(replace(row, difference=one) for row, one in zip(rows, corrected, strict=True)),
        skipped=tuple(skipped),
        first=_called(sides[0], stages[0]),
        other=_called(sides[1], stages[1]),
    )


def _in_order(*sides: Sequence[Path]) -> tuple[list[list[Path]], bool]:
    # Folders by their seeds, and whether both sides have the same ones.
    if all(len(side) == 1 for side in sides):
        return [list(side) for side in sides], True
    ordered, seeds = [], []
    for side in sides:
        of = [(_seed(folder), folder) for folder in side]
        if twice := [seed for seed, count in Counter(seed for seed, _ in of).items() if count > 1]:
            folders = " and ".join(str(folder) for seed, folder in of if seed == twice[0])
            raise RunError(f"{folders} have the same seed, {twice[0]}: a side's runs differ in their seed alone.")
        ordered.append([folder for _, folder in sorted(of)])
        seeds.append(sorted(seed for seed, _ in of))
    return ordered, seeds[0] == seeds[1]


def _seed(folder: Path) -> int:
    path = folder / "result.json"
    if not path.exists():
        raise RunError(f"{path} does not exist, and says the seed of the run: let the run finish.")
    return read_json(path, RunResult).seed


def _called(folders: Sequence[Path], stage: Stage) -> str:
    more = f" and {len(folders) - 1} more" if len(folders) > 1 else ""
    return f"{folders[0]}{more} ({stage})"
