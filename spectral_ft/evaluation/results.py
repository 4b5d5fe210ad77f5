"""What the harness returns, as scores and samples of ours."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from spectral_ft.evaluation.classification import standard_error
from spectral_ft.evaluation.prepare import PreparedTask
from spectral_ft.evaluation.records import TaskScores
from spectral_ft.evaluation.rules import rule_rows
from spectral_ft.types import BenchmarkScore, Stage

UNFINISHED = "unfinished"
"""Metric: share of written answers that the limit of new tokens cut."""
Ended = Callable[[str, dict[str, Any]], bool]
"""Prompt and generation settings to whether the answer came to an end."""


def read_results(results: Any, task: PreparedTask, *, stage: Stage, version: str, ended: Ended) -> TaskScores:
    """Scores and samples of one task.

    Args:
        results: Of the harness.
        task: That was run.
        stage: Base or tuned.
        version: Of the harness.
        ended: Of written answers.

    Returns:
        The leading score first; a sample for each item and rule: of our task files, or filter of the harness.
    """
    rows = [_sample(sample, stage, ended) for sample in results["samples"][task.name]]
    samples = [judged for row in rows for judged in rule_rows(row, task.rules)] if task.rules else rows
    scores = _scores(results, task, stage, version)
    if samples[0]["response"] is not None:
        cut = [float(not row["ended"]) for row in samples if row["extractor"] == samples[0]["extractor"]]
        share, error = sum(cut) / len(cut), standard_error(cut)
        scores.append(replace(scores[0], metric=UNFINISHED, value=share, stderr=error, extractor="length"))
    return TaskScores(tuple(scores), samples)


def _scores(results: Any, task: PreparedTask, stage: Stage, version: str) -> list[BenchmarkScore]:
    numbers = results["results"][task.name]
    scores = []
    for key, value in numbers.items():
        metric, _, rule = key.partition(",")
        if not rule or metric.endswith("_stderr"):
            continue
        stderr = numbers.get(f"{metric}_stderr,{rule}")
        own = metric in task.rules
        scores.append(
            BenchmarkScore(
                task=task.name,
                metric="exact_match" if own else metric,
                value=float(value),
                stderr=float(stderr) if isinstance(stderr, float | int) else None,
                n=int(results["n-samples"][task.name]["effective"]),
                fewshot=int(results["n-shot"][task.name]),
                extractor=metric if own else rule,
                protocol=task.protocol,
                stage=stage,
                harness_version=version,
            )
        )
    return scores


def _sample(sample: dict[str, Any], stage: Stage, ended: Ended) -> dict[str, Any]:
    prompt, asked = str(sample["arguments"][0][0]), sample["arguments"][0][1]
    generated = isinstance(sample["resps"][0][0], str)
    return {
        "stage": stage,
        "id": sample["doc_id"],
        "prompt_hash": prompt_hash(prompt),
        "response": sample["resps"][0][0] if generated else None,
        "ended": ended(prompt, asked) if generated else None,
        "log_likelihoods": None if generated else [float(choice[0][0]) for choice in sample["resps"]],
        "extractor": sample["filter"],
        "extracted": sample["filtered_resps"][0] if generated else None,
        "gold": str(sample["target"]),
        "metrics": {name: float(sample[name]) for name in sample["metrics"]},
    }


def prompt_hash(prompt: str) -> str:
    """What tells whether two runs asked the same.

    Args:
        prompt: As the model saw it.

    Returns:
        16 hexadecimal digits.
    """
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]
