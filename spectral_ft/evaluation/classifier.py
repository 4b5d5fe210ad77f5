"""Scores of a classifier: the label of the largest logit against the right one.

lm-eval would score an encoder as if it wrote text, without an error; this is the way to score one.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.special import logsumexp
from transformers import PreTrainedTokenizerBase

from spectral_ft.errors import ConfigError
from spectral_ft.evaluation.benchmark import Benchmark
from spectral_ft.evaluation.classification import f1, standard_error
from spectral_ft.evaluation.logits import class_logits
from spectral_ft.evaluation.prepare import PreparedTask
from spectral_ft.evaluation.records import TaskScores
from spectral_ft.evaluation.task import Task, TestItem
from spectral_ft.fingerprint import text_fingerprint
from spectral_ft.storage import write_jsonl
from spectral_ft.types import BenchmarkScore, Stage

TEXTS = 64
"""At a time, where nobody says: a classifier keeps no cache and gives one row of logits a text."""
CODE = ("classifier.py", "classification.py", "logits.py")
"""What scores and samples are made by: none is taken from the cache that another version made."""
RULE = "argmax"
"""How the answer is read from the logits."""


def evaluator_version() -> str:
    """What made the scores.

    Returns:
        This package and its version.
    """
    return f"spectral_ft {importlib.metadata.version('spectral_ft')}"


def prepare_texts(task: Task, items: Sequence[TestItem], *, folder: Path) -> PreparedTask:
    """Write the texts that shall be classified.

    Args:
        task: With classes.
        items: Test items; their answers are classes.
        folder: Where to write.

    Returns:
        The prepared task; its file holds one text a line. The fingerprint is of the texts and of the code that scores.
    """
    rows = [{"id": number, "text": item.instruction, "gold": item.answer} for number, item in enumerate(items)]
    file = (folder / f"{task.name}.test.jsonl").absolute()
    write_jsonl(file, rows, durable=False)
    code = [Path(__file__).with_name(name).read_text() for name in CODE]
    parts = [*code, task.name, repr(task.classes), *map(repr, rows)]
    return PreparedTask(task.name, "standard", file, text_fingerprint("\n".join(parts)))


def score_classifier(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: PreparedTask,
    benchmark: Benchmark,
    *,
    labels: Sequence[str],
    positive: str,
    stage: Stage,
    context: int | None,
) -> TaskScores:
    """Score a classifier on one task: accuracy, F1 and mean loss.

    Args:
        model: Classifier, adapted or not, in evaluation mode.
        tokenizer: Its tokenizer.
        task: As `prepare_texts` made it.
        benchmark: How many items, and how many at a time.
        labels: Of the model, in the order of their ids.
        positive: The class that F1 is of, where the labels are two.
        stage: Whether this is the base or the tuned model, for the record.
        context: Most tokens the model takes; longer texts are cut. None leaves it to the tokenizer.

    Returns:
        Scores and samples.

    Raises:
        ConfigError: If an item's class is none of the labels, or the model is no classifier of so many.
        CheckpointError: If a logit is NaN or infinite.
    """
    rows = [json.loads(line) for line in task.file.read_text(encoding="utf-8").split("\n") if line][: benchmark.limit]
    numbers = {label: number for number, label in enumerate(labels)}
    if unknown := sorted({positive, *(row["gold"] for row in rows)} - set(numbers)):
        raise ConfigError(
            f"benchmark {task.name} has the class {unknown[0]!r}, none of model.labels={list(labels)}: give the labels "
            "the names of the classes."
        )
    gold = np.array([numbers[row["gold"]] for row in rows])
    logits = class_logits(
        model,
        tokenizer,
        [row["text"] for row in rows],
        task=task.name,
        classes=len(labels),
        batch_size=benchmark.batch_size or TEXTS,
        context=context,
    )
    guess = logits.argmax(1)
    right = (guess == gold).astype(float)
    losses = logsumexp(logits, axis=1) - logits[np.arange(len(gold)), gold]  # cross-entropy, in nats
    values = [
        ("acc", float(right.mean()), standard_error(right)),
        ("f1", f1(gold, guess, classes=len(labels), positive=numbers[positive]), None),
        ("loss", float(losses.mean()), standard_error(losses)),
    ]
    scores = tuple(
        BenchmarkScore(
            task=task.name,
            metric=metric,
            value=value,
            stderr=stderr,
            n=len(rows),
            fewshot=0,
            extractor=RULE,
            protocol=task.protocol,
            stage=stage,
            harness_version=evaluator_version(),
        )
        for metric, value, stderr in values
    )
    samples = [
        {
            "stage": stage,
            "id": row["id"],
            "prompt_hash": hashlib.sha256(row["text"].encode()).hexdigest()[:16],
            "response": labels[guess[number]],
            "logits": logits[number].tolist(),
            "extractor": RULE,
            "extracted": labels[guess[number]],
            "gold": row["gold"],
            "metrics": {"acc": float(right[number]), "loss": float(losses[number])},
        }
        for number, row in enumerate(rows)
    ]
    return TaskScores(scores, samples)
