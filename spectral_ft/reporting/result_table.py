"""The table of a sweep: arms by tasks, measured and published, what each arm cost, and what became of its runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from spectral_ft.errors import ConfigError
from spectral_ft.reporting.frame import score_frame
from spectral_ft.reporting.measured import Measured, measured
from spectral_ft.reporting.mixing import check_identities, mixed
from spectral_ft.reporting.published import PublishedScore, published_scores
from spectral_ft.reporting.ranking import Place, Ranking, ranking
from spectral_ft.reporting.records import RunFolder, missing_arms
from spectral_ft.reporting.sweep_plan import SweepPlan

COSTS = ("trainable_percent", "peak_memory_bytes", "seconds")
COLUMNS: Mapping[str, str] = {
    "arm": "string",
    "task": "string",
    "metric": "string",
    "extractor": "string",
    "mean": "float64",
    "low": "float64",
    "high": "float64",
    "seeds": "float64",
    "items": "float64",
    "over": "string",
    "best": "bool",
    "published": "float64",
    "published_n": "float64",
    "source": "string",
    "difference": "float64",
    "difference_low": "float64",
    "difference_high": "float64",
    "p": "float64",
    "p_holm": "float64",
    "trainable_percent": "float64",
    "published_percent": "float64",
    "peak_memory_bytes": "float64",
    "seconds": "float64",
    "runs": "int64",
    "planned": "int64",
    "reasons": "string",
}
"""Of the frame, with their types: what is not there is null in each."""


@dataclass(frozen=True)
class Row:
    """One arm."""

    arm: str
    finished: int
    """Runs with a record."""
    reasons: tuple[str, ...]
    """Of each run without one: its state, its seed and why."""
    trainable_percent: float | None
    """100 trainable / all parameters; this and the costs are means over the seeds, None where nothing was trained."""
    peak_memory_bytes: float | None
    seconds: float | None
    """Of the training."""

    @property
    def planned(self) -> int:
        """Runs that there should be."""
        return self.finished + len(self.reasons)


@dataclass(frozen=True)
class ResultTable:
    """What some runs came to."""

    rows: tuple[Row, ...]
    tasks: tuple[str, ...]
    """That were measured or published."""
    measured: Mapping[Place, Measured]
    """By arm and task; a place without a finished run is not in it."""
    published: Mapping[Place, PublishedScore]
    ranking: Ranking
    baseline: str | None
    notes: tuple[str, ...]
    """What a reader must know: sentences."""

    def frame(self) -> pd.DataFrame:
        """The table as plain numbers.

        Returns:
            One row an arm and task: arm, task, metric, extractor, mean, low and high (the 95 % interval), seeds, items
            and over (of the interval), best (whether the lead stands), published, published_n, source, difference to
            the baseline with difference_low, difference_high, p and p_holm, trainable_percent,
            published_percent, peak_memory_bytes, seconds, runs (finished), planned, and reasons (of the others).
            Scores and differences are in the metric's unit: shares, not points. What there is not is null.
        """
        lines = [self._line(row, task) for row in self.rows for task in self.tasks or ("",)]
        return pd.DataFrame(lines, columns=list(COLUMNS)).astype(dict(COLUMNS))

    def _line(self, row: Row, task: str) -> dict[str, object]:
        place = row.arm, task
        found, known, gap = self.measured.get(place), self.published.get(place), self.ranking.differences.get(place)
        estimate = found.estimate if found else None
        return {
            "arm": row.arm,
            "task": task or None,
            "metric": found and found.metric,
            "extractor": found and found.extractor,
            "mean": found and found.value,
            "low": estimate and estimate.low,
            "high": estimate and estimate.high,
            "seeds": found and len(found.seeds),
            "items": estimate and estimate.items,
            "over": estimate and estimate.over,
            "best": self.ranking.best(place),
            "published": known and known.value / 100,
            "published_n": known and known.n,
            "source": known and known.source,
            "difference": gap and gap.difference,
            "difference_low": gap and gap.low,
            "difference_high": gap and gap.high,
            "p": gap and gap.p,
            "p_holm": gap and gap.p_holm,
            "trainable_percent": row.trainable_percent,
            "published_percent": known and known.params_percent,
            "peak_memory_bytes": row.peak_memory_bytes,
            "seconds": row.seconds,
            "runs": row.finished,
            "planned": row.planned,
            "reasons": " ".join(row.reasons) or None,
        }


def result_table(
    runs: Sequence[RunFolder], plan: SweepPlan | None, *, baseline: str | None = None, mix: bool = False
) -> ResultTable:
    """The table of some runs.

    Args:
        runs: Finished or not.
        plan: The jobs that there should be; None where no sweep wrote them down.
        baseline: Arm that the others are compared with.
        mix: Show records of different formats and code versions in one table.

    Returns:
        The table; arms in the order of the sweep, others by name.

    Raises:
        ConfigError: If no row is called as the baseline, or it has no finished run.
        DataError: If runs were scored by different rules or on different items.
        RunError: If a run is there twice, or runs are of different origin and `mix` is false.
    """
    check_identities(runs)
    notes = mixed(runs, mix=mix)
    missing = missing_arms(plan, runs) if plan else []
    arms = _in_order(runs, plan, [arm for arm, _ in missing])
    found, more = measured(runs)
    _check_baseline(baseline, arms, runs)
    choices = {arm: job.arm for arm, job in missing} | {run.arm: run.choice for run in runs}
    scores = published_scores(choices[arm] or arm for arm in arms)
    published = {(arm, score.task): score for arm in arms for score in scores if score.arm == (choices[arm] or arm)}
    tasks = tuple(dict.fromkeys(task for _, task in (*found, *published)))
    reasons: dict[str, list[str]] = {arm: [] for arm in arms}
    for run in runs:
        if not run.result:
            reasons[run.arm].append(_reason(run.status, run.seed, run.reason))
    for arm, job in missing:
        reasons[arm].append(_reason("missing", job.seed, None))
    costs = score_frame(runs).drop_duplicates("folder").groupby("arm")[list(COSTS)].mean()
    known = {str(arm): {name: _number(cost) for name, cost in of.items()} for arm, of in costs.to_dict("index").items()}
    rows = [
        Row(
            arm,
            finished=sum(run.arm == arm and run.result is not None for run in runs),
            reasons=tuple(reasons[arm]),
            **known.get(arm, dict.fromkeys(COSTS)),
        )
        for arm in arms
    ]
    tests = ranking(found, tasks, baseline=baseline)
    notes += more + _said_of(found, published)
    return ResultTable(tuple(rows), tasks, found, published, tests, baseline, tuple(notes))


def _number(cost: Any) -> float | None:
    return None if cost is None or math.isnan(cost) else float(cost)


def _in_order(runs: Sequence[RunFolder], plan: SweepPlan | None, missing: Sequence[str]) -> list[str]:
    arm_of = {run.run_id: run.arm for run in runs}
    swept = [arm_of[job.run_id] for job in plan.jobs if job.run_id in arm_of] if plan else []
    return list(dict.fromkeys([*swept, *sorted(run.arm for run in runs), *missing]))


def _check_baseline(baseline: str | None, arms: Sequence[str], runs: Sequence[RunFolder]) -> None:
    if baseline is None:
        return
    if baseline not in arms:
        raise ConfigError(f"--baseline {baseline} is no row: there is {', '.join(arms)}.")
    if not any(run.result for run in runs if run.arm == baseline):
        raise ConfigError(f"--baseline {baseline} has no finished run to compare with.")


def _reason(status: str, seed: int | None, why: str | None) -> str:
    where = "" if seed is None else f", seed {seed}"
    return f"{status}{where}: {why}" if why else f"{status}{where}."


def _said_of(found: Mapping[Place, Measured], published: Mapping[Place, PublishedScore]) -> list[str]:
    notes = []
    if any(one.estimate and one.estimate.over == "items" for one in found.values()):
        notes.append("intervals of arms with one seed are over items alone, and say nothing of other trainings.")
    for source in dict.fromkeys(score.source for score in published.values()):
        arms = dict.fromkeys(score.arm for score in published.values() if score.source == source)
        notes.append(f"published, {', '.join(arms)}: {source}; one run each.")
    for (arm, task), score in published.items():
        one = found.get((arm, task))
        if one and one.estimate and one.estimate.items != score.n:
            notes.append(f"{task} was published over {score.n} items and measured over {one.estimate.items}.")
    return list(dict.fromkeys(notes))
