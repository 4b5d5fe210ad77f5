"""What a run says of itself when it is done."""

from typing import Any, Literal

from pydantic.dataclasses import dataclass

from spectral_ft.types.strictness import STRICT

Stage = Literal["base", "tuned"]
"""Scores before training, or after it."""


@dataclass(frozen=True, config=STRICT)
class BenchmarkScore:
    """One number on one task."""

    task: str
    metric: str
    value: float
    stderr: float | None
    n: int
    """Items scored."""
    fewshot: int
    extractor: str
    """Rule by which the answer was read from the response."""
    protocol: str
    stage: Stage
    harness_version: str


@dataclass(frozen=True, config=STRICT)
class RunResult:
    """The record of a finished run."""

    run_id: str
    format: int
    status: Literal["finished"]
    config: dict[str, Any]
    plan: dict[str, Any] | None
    """The counts of the plan; None where nothing was trained."""
    train: dict[str, Any] | None
    scores: tuple[BenchmarkScore, ...]
    versions: dict[str, str]
    git_commit: str | None
    seed: int
    seconds: float
    """Wall time of the call that finished it."""
    machine: dict[str, Any]
    overlap: dict[str, Any] | None = None
    """What training and test sets have in common, in counts; None where nothing was trained."""
