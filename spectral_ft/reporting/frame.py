"""Run records as one pandas frame: what tables, figures and notebooks start from."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from spectral_ft.reporting.arms import seedless, varying
from spectral_ft.reporting.records import RunFolder
from spectral_ft.reporting.score_table import leading
from spectral_ft.types import RunResult

FIXED = {
    "folder": "string",
    "run_id": "string",
    "arm": "string",
    "seed": "Int64",
    "stage": "string",
    "task": "string",
    "metric": "string",
    "extractor": "string",
    "value": "float64",
    "n": "Int64",
    "leading": "boolean",
    "trainable_percent": "float64",
    "peak_memory_bytes": "float64",
    "seconds": "float64",
}
"""Columns of every frame, with their types: what is not there is null in each."""


def score_frame(runs: Sequence[RunFolder]) -> pd.DataFrame:
    """The scores of finished runs.

    Args:
        runs: Any; those without a record have no row, those without scores have one.

    Returns:
        One row a run, stage, task, metric and extractor: folder, run_id, arm, seed, stage, task, metric, extractor,
        value (in the metric's unit: shares, not points), n (items), leading (whether it is the score of its task that
        counts), trainable_percent, peak_memory_bytes and seconds (of the training; null where nothing was trained),
        then every option in which the runs differ.
    """
    finished = [run for run in runs if run.result]
    flats = [seedless(run.config) for run in finished]
    options = varying(flats)
    rows: list[dict[str, Any]] = []
    for run, flat in zip(finished, flats, strict=True):
        told: dict[str, Any] = {"folder": str(run.folder), "run_id": run.run_id, "arm": run.arm, "seed": run.seed}
        told |= {option: flat.get(option) for option in options}
        if run.result:
            told |= _costs(run.result)
            rows += [told | score for score in _scores(run.result)] or [told]
    return pd.DataFrame(rows, columns=[*FIXED, *options]).astype(FIXED)


def _costs(result: RunResult) -> dict[str, float | None]:
    return {
        "trainable_percent": result.plan["trainable_percent"] if result.plan else None,
        "peak_memory_bytes": result.train["peak_memory_bytes"] if result.train else None,
        "seconds": result.train["seconds"] if result.train else None,
    }


def _scores(result: RunResult) -> list[dict[str, Any]]:
    first = leading(result.scores)
    return [
        {
            "stage": score.stage,
            "task": score.task,
            "metric": score.metric,
            "extractor": score.extractor,
            "value": score.value,
            "n": score.n,
            "leading": first[score.task, score.stage] is score,
        }
        for score in result.scores
    ]
