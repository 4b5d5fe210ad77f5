"""Base model and adapter to `scores.json` and `samples/`."""

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from spectral_ft.data.benchmark_items import local_fewshot_items, local_items
from spectral_ft.data.prompts import alpaca_evaluation, plain
from spectral_ft.data.rows import Item
from spectral_ft.evaluation.task import Task, TaskProtocol
from spectral_ft.experiment import Experiment
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.types import BenchmarkScore, Stage

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spectral_ft.evaluation.prepare import PreparedTask
    from spectral_ft.evaluation.records import TaskScores

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourcedTask:
    """A task with what its source gave."""

    task: Task
    protocol: TaskProtocol
    items: list[Item] | None
    """None: the harness fetches its own from the hub."""
    fewshot: list[Item]

    def prepare(self, num_fewshot: int | None, folder: Path) -> "PreparedTask":
        """Write the task file.

        Args:
            num_fewshot: Examples in the prompt; None keeps the task's own number.
            folder: Where to.

        Returns:
            The prepared task.
        """
        from spectral_ft.evaluation.prepare import prepare

        return prepare(
            self.task,
            self.items,
            protocol=self.protocol,
            prompt=alpaca_evaluation if self.protocol == "paper" else plain,
            fewshot_items=self.fewshot,
            num_fewshot=num_fewshot,
            folder=folder,
        )


def source_tasks(experiment: Experiment) -> list[SourcedTask]:
    """Read test items and choose protocols; cheap, so that a fault is found before training.

    Args:
        experiment: Its components.

    Returns:
        One entry a task.
    """
    benchmark, dataset = experiment.benchmark, experiment.dataset
    found = []
    for task in benchmark.tasks.values():
        items: list[Item] | None = None
        fewshot: list[Item] = []
        folder = benchmark.folder_of(task, dataset=dataset.name, dataset_folder=dataset.data_dir)
        if task.generated is not None:
            items = task.generated()
        elif folder is not None and task.rows is not None:
            items = local_items(folder, task.folders or [], task.rows)
            fewshot = local_fewshot_items(folder, task.folders or [], task.rows)
        found.append(SourcedTask(task, task.choose_protocol(benchmark.protocol, items), items, fewshot))
    return found


def fetch_from_hub(experiment: Experiment, tasks: list[SourcedTask], folder: Path) -> None:
    """Have the items of hub tasks at hand before hours are spent on training.

    Args:
        experiment: Its components.
        tasks: Those with items of their own are left alone.
        folder: Of the run.
    """
    for task in tasks:
        if task.items is None:
            from spectral_ft.evaluation.harness import fetch_items

            fetch_items(task.prepare(experiment.benchmark.num_fewshot, folder / "tasks"))


def score_stages(
    experiment: Experiment, checkpoint: Checkpoint, tasks: list[SourcedTask], folder: Path
) -> tuple[BenchmarkScore, ...]:
    """Score the base, then the adapter on the same loaded weights; every finished task is kept.

    Args:
        experiment: Its components.
        checkpoint: The base.
        tasks: With their items.
        folder: Of the run.

    Returns:
        All scores, base before tuned.
    """
    from spectral_ft.evaluation.records import BaseScoreCache, ScoreFile

    file, benchmark = ScoreFile(folder), experiment.benchmark
    todo: list[tuple[Stage, SourcedTask]] = [
        (stage, task)
        for stage in sorted(benchmark.stages)  # base before tuned: the adapter goes on last
        for task in tasks
        if not file.holds(stage, task.task.name)
    ]
    if not todo:
        return file.scores()
    from spectral_ft.evaluation.harness import harness_version
    from spectral_ft.models.loading import compute_device, resolve_dtype

    scorer = _Scorer(experiment, checkpoint, folder)
    cache = BaseScoreCache(
        benchmark.cache_folder,
        model=checkpoint.fingerprint,
        precision=f"{experiment.quantization.label} {resolve_dtype(experiment.model.dtype, compute_device())}",
    )
    for stage, sourced in todo:
        task = sourced.prepare(benchmark.num_fewshot, folder / "tasks")
        if stage == "base":
            finished = cache.fetch(
                task,
                limit=benchmark.limit,
                version=harness_version(),
                score=lambda task=task: scorer.score(task, "base"),  # type: ignore[misc]
            )
        else:
            finished = scorer.score(task, "tuned")
        file.add(stage, finished)
        leading = finished.scores[0]
        log.info("scored %s (%s): %s %.4f on %d items", task.name, stage, leading.metric, leading.value, leading.n)
    return file.scores()


class _Scorer:
    """Loads the base when a score is first asked for, and the adapter when a tuned one is."""

    def __init__(self, experiment: Experiment, checkpoint: Checkpoint, folder: Path) -> None:
        self._experiment = experiment
        self._checkpoint = checkpoint
        self._folder = folder

    @cached_property
    def _base(self) -> "PreTrainedModel":
        from spectral_ft.models.loading import load_model

        return load_model(
            self._checkpoint.folder,
            quantization=self._experiment.quantization,
            dtype=self._experiment.model.dtype,
            trust_remote_code=self._experiment.model.trust_remote_code,
        )

    @cached_property
    def _tuned(self) -> "torch.nn.Module":
        return self._experiment.method.reopen(self._base, self._folder / "adapter")

    @cached_property
    def _tokenizer(self) -> "PreTrainedTokenizerBase":
        from spectral_ft.models.loading import load_tokenizer

        return load_tokenizer(self._checkpoint.folder, trust_remote_code=self._experiment.model.trust_remote_code)

    def score(self, task: "PreparedTask", stage: Stage) -> "TaskScores":
        from spectral_ft.evaluation.harness import score_task

        return score_task(
            self._base if stage == "base" else self._tuned,
            self._tokenizer,
            task,
            stage=stage,
            batch_size=self._experiment.benchmark.batch_size,
            limit=self._experiment.benchmark.limit,
            context=self._checkpoint.context_length,
        )
