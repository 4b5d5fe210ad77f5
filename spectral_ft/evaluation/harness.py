"""The only caller of lm-eval: a model and prepared tasks in, scores and samples out."""

import hashlib
import importlib.metadata
import logging
import shutil
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from spectral_ft.errors import ConfigError
from spectral_ft.evaluation.prepare import PreparedTask
from spectral_ft.evaluation.records import TaskScores
from spectral_ft.hub import hub_errors
from spectral_ft.types import BenchmarkScore, Stage

BOOTSTRAP = 1_000
"""Draws for the standard error of what is no mean; means have a closed form."""
OWN_RULES = ("paper", "strict")
"""Metrics of our task files that are rules of extraction, each an accuracy."""


def harness_version() -> str:
    """lm-eval's version.

    Returns:
        Such as 0.4.13.
    """
    return importlib.metadata.version("lm_eval")


def fetch_items(task: PreparedTask) -> None:
    """Let the harness load a task, and fetch its items where they come from the hub.

    Args:
        task: Prepared.

    Raises:
        HubError: If the hub cannot be reached or refuses.
    """
    from lm_eval.tasks import TaskManager

    with hub_errors(f"benchmark {task.name}", override="benchmark.data_dir=FOLDER"):
        TaskManager(include_defaults=False).load([str(task.file)])


def score_task(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: PreparedTask,
    *,
    kind: Literal["causal_lm", "seq2seq", "classifier"] = "causal_lm",
    stage: Stage,
    batch_size: int,
    limit: int | None,
    context: int | None,
) -> TaskScores:
    """Score a model that writes on one task.

    Args:
        model: Adapted or not.
        tokenizer: Its tokenizer.
        task: Prepared.
        kind: Of the model.
        stage: Whether this is the base or the tuned model, for the record.
        batch_size: Items at a time.
        limit: Only the first so many items.
        context: Most tokens the model takes; None leaves it to the harness.

    Returns:
        Scores and samples.

    Raises:
        ConfigError: If the model is a classifier, which the harness would score as if it wrote.
        DataError: If a prompt and its answer do not fit into the model's context.
    """
    if kind == "classifier":
        raise ConfigError(
            f"benchmark {task.name}: lm-eval scores what a model writes, and for a classifier its numbers would mean "
            "nothing. Use a benchmark with classes, such as benchmark=sst2."
        )
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    from spectral_ft.evaluation.language_model import CheckedModel

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    # It would ask git about the working directory, and outside a checkout git answers aloud.
    evaluator.get_git_commit_hash = lambda: None
    results = evaluator.simple_evaluate(
        model=CheckedModel(model, tokenizer, task=task.name, kind=kind, batch_size=batch_size, context=context),
        tasks=[str(task.file)],
        task_manager=TaskManager(include_defaults=False),
        limit=limit,
        bootstrap_iters=BOOTSTRAP,
        log_samples=True,
    )
    shutil.rmtree(task.file.parent / "arrow", ignore_errors=True)
    return TaskScores(_scores(results, task, stage), _samples(results, task, stage))


def _scores(results: Any, task: PreparedTask, stage: Stage) -> tuple[BenchmarkScore, ...]:
    numbers = results["results"][task.name]
    scores = []
    for key, value in numbers.items():
        metric, _, rule = key.partition(",")
        if not rule or metric.endswith("_stderr"):
            continue
        stderr = numbers.get(f"{metric}_stderr,{rule}")
        own = metric in OWN_RULES
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
                harness_version=harness_version(),
            )
        )
    return tuple(scores)


def _samples(results: Any, task: PreparedTask, stage: Stage) -> list[dict[str, Any]]:
    rows = []
    for sample in results["samples"][task.name]:
        prompt = str(sample["arguments"][0][0])
        generated = isinstance(sample["resps"][0][0], str)
        rows.append({
            "stage": stage,
            "id": sample["doc_id"],
            "prompt_hash": hashlib.sha256(prompt.encode()).hexdigest()[:16],
            "response": sample["resps"][0][0] if generated else None,
            "log_likelihoods": None if generated else [float(choice[0][0]) for choice in sample["resps"]],
            "extractor": sample["filter"],
            "extracted": sample["filtered_resps"][0] if generated else None,
            "gold": str(sample["target"]),
            "metrics": {name: float(sample[name]) for name in sample["metrics"]},
        })
    return rows
