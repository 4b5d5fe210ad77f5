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
from spectral_ft.methods.none import Nothing
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.stages.base import load_base
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
        if self.task.classes is not None:
            from spectral_ft.evaluation.classifier import prepare_texts

            return prepare_texts(self.task, self.items or [], folder=folder)
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

    @property
    def evaluator_version(self) -> str:
        """Of what computes the scores."""
        if self.task.classes is not None:
            from spectral_ft.evaluation.classifier import evaluator_version

            return evaluator_version()
        from spectral_ft.evaluation.harness import harness_version

        return harness_version()


def source_tasks(experiment: Experiment) -> list[SourcedTask]:
    """Read test items and choose protocols; cheap, so that a fault is found before training.

    Args:
        experiment: Its components.

    Returns:
        One entry a task.
    """
    benchmark, dataset, model = experiment.benchmark, experiment.dataset, experiment.model
    found = []
    for task in benchmark.tasks.values():
        task.check_model(model.kind, model.labels)
        items: list[Item] | None = None
        fewshot: list[Item] = []
        folder = benchmark.folder_of(task, dataset=dataset.name, dataset_folder=dataset.data_dir)
        if folder is not None and task.rows is not None:
            items = local_items(folder, task.folders or [], task.rows)
            fewshot = local_fewshot_items(folder, task.folders or [], task.rows)
        elif task.own_items is not None:
            items = task.own_items()
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
        if not (stage == "tuned" and isinstance(experiment.method, Nothing))
        for task in tasks
        if not file.holds(stage, task.task.name)
    ]
    if not todo:
        return file.scores()
    from spectral_ft.models.loading import compute_device, resolve_dtype

    scorer = _Scorer(experiment, checkpoint, folder)
    # A classifier's head may be drawn with the run's seed.
    head = "" if experiment.model.labels is None else f" {experiment.model.labels} {experiment.seed}"
    cache = BaseScoreCache(
        benchmark.cache_folder,
        model=checkpoint.fingerprint + head,
        precision=f"{experiment.quantization.label} {resolve_dtype(experiment.model.dtype, compute_device())}",
    )
    for stage, sourced in todo:
        task = sourced.prepare(benchmark.num_fewshot, folder / "tasks")
        if stage == "base":
            finished = cache.fetch(
                task,
                limit=benchmark.limit,
                version=sourced.evaluator_version,
                score=lambda sourced=sourced, task=task: scorer.score(sourced.task, task, "base"),  # type: ignore[misc]
            )
        else:
            finished = scorer.score(sourced.task, task, "tuned")
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
        return load_base(self._experiment, self._checkpoint)

    @cached_property
    def _tuned(self) -> "torch.nn.Module":
        from spectral_ft.adapters.opening import open_adapter
        from spectral_ft.adapters.origin import check_origin

        folder = self._folder / "adapter"
        check_origin(folder, model=self._experiment.model.label, fingerprint=self._checkpoint.fingerprint)
        return open_adapter(self._base, folder)

    @cached_property
    def _tokenizer(self) -> "PreTrainedTokenizerBase":
        from spectral_ft.models.loading import load_tokenizer

        source = self._experiment.model
        return load_tokenizer(self._checkpoint.folder, kind=source.kind, trust_remote_code=source.trust_remote_code)

    def score(self, task: Task, prepared: "PreparedTask", stage: Stage) -> "TaskScores":
        model = self._base if stage == "base" else self._tuned
        benchmark = self._experiment.benchmark
        batch_size, limit, context = benchmark.batch_size, benchmark.limit, self._checkpoint.context_length
        if task.classes is not None:
            from spectral_ft.evaluation.classifier import score_classifier

            return score_classifier(
                model,
                self._tokenizer,
                prepared,
                labels=self._experiment.model.labels or [],
                stage=stage,
                batch_size=batch_size,
                limit=limit,
                context=context,
            )
        from spectral_ft.evaluation.harness import score_task

        return score_task(
            model,
            self._tokenizer,
            prepared,
            kind=self._experiment.model.kind,
            stage=stage,
            batch_size=batch_size,
            limit=limit,
            context=context,
        )
