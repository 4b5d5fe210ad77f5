"""Run folders with typed answers, as the evaluation leaves them."""

import json
from pathlib import Path

import numpy as np

from spectral_ft.identity import RECORD_FORMAT
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


LORA = {"method.name": "lora", "rank_policy._target_": "spectral_ft.allocation.uniform.Uniform"}


def nested(options):
    """A configuration out of options with points."""
    config = {}
    for option, value in options.items():
        *groups, last = option.split(".")
        place = config
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return config


def write_record(folder: Path, answers=None, *, run_id, options=None, seed=0, changes=None, **written) -> Path:
    """A finished run as `run` leaves it; `options` is its configuration, `changes` of its record."""
    write_run(folder, answers or {"aqua": {"tuned": [1, 0, 1, 0]}}, seed=seed, **written)
    config = nested({**(options or LORA), "seed": seed})
    record = {
        **json.loads((folder / "result.json").read_text()),
        "run_id": run_id,
        "format": RECORD_FORMAT,
        "config": config,
        "seed": seed,
        **(changes or {}),
    }
    write_json(folder / "result.json", record)
    write_json(folder / "run.json", {"run_id": run_id, "format": RECORD_FORMAT, "config": config})
    return folder


def write_sweep(folder: Path, jobs, *, overrides=()) -> None:
    """The list of jobs of a sweep: (run_id, arm, seed) each, and overrides of its own."""
    listed = [
        {
            "run_id": run_id,
            "overrides": [*overrides, *([f"arm={arm}"] if arm else []), *own, f"seed={seed}"],
            "arm": arm,
            "seed": seed,
        }
        for run_id, arm, seed, *own in jobs
    ]
    write_json(folder / "sweep.json", {"experiment": "smoke", "jobs": listed, "commands": [["-m", "experiment=smoke"]]})
