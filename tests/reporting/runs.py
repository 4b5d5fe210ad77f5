"""Run folders with typed answers, as the evaluation leaves them."""

from pathlib import Path

import numpy as np

from spectral_ft.storage import write_json, write_jsonl
from spectral_ft.types import BenchmarkScore, RunResult


def write_run(folder: Path, answers, *, seed=0, metric="exact_match", extractor="strict", prompt="q", ids=None) -> Path:
    """A finished run; `answers` is {task: {stage: values}}, one value an item."""
    scores = []
    for task, by_stage in answers.items():
        rows = []
        for stage, values in by_stage.items():
            scores.append(
                BenchmarkScore(
                    task=task,
                    metric=metric,
                    value=float(np.mean(values)),
                    stderr=None,
                    n=len(values),
                    fewshot=0,
                    extractor=extractor,
                    protocol="standard",
                    stage=stage,
                    harness_version="0",
                )
            )
            rows += [
                {
                    "stage": stage,
                    "id": item,
                    "prompt_hash": f"{prompt}{item}",
                    "extractor": extractor,
                    "metrics": {metric: float(value)},
                }
                for item, value in zip(ids or range(len(values)), values, strict=True)
            ]
        write_jsonl(folder / "samples" / f"{task}.jsonl", rows)
    write_json(folder / "scores.json", tuple(scores))
    write_json(
        folder / "result.json",
        RunResult(
            run_id="abc",
            format=1,
            status="finished",
            config={},
            plan=None,
            train=None,
            scores=tuple(scores),
            versions={},
            git_commit=None,
            seed=seed,
            seconds=1.0,
            machine={},
        ),
    )
    return folder
