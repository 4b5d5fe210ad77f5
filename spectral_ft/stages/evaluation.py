"""Base model and adapters to `scores.json` and `samples/`: one loaded base answers for all of them."""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from spectral_ft.experiment import Experiment
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.stages.base import HeldBase
from spectral_ft.stages.benchmarks import SourcedTask
from spectral_ft.stages.examples import tokenizer_fingerprint
from spectral_ft.types import BenchmarkScore, Stage

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from spectral_ft.evaluation.prepare import PreparedTask
    from spectral_ft.evaluation.records import BaseScoreCache, ScoreFile, TaskScores

log = logging.getLogger(__name__)


class Scorer:
    """Scores a base, and adapters on it one after the other; borrows the base when something is first asked of it."""

    def __init__(
        self,
        experiment: Experiment,
        checkpoint: Checkpoint,
        tasks: Sequence[SourcedTask],
        held: HeldBase | None = None,
    ) -> None:
        """Begin.

        Args:
            experiment: Its components.
            checkpoint: Of the base.
            tasks: With their items.
            held: Lends the base; None loads one for the scores alone.
        """
        self._experiment = experiment
        self._checkpoint = checkpoint
        self._tasks = tasks
        self._held = held or HeldBase(experiment, checkpoint)
        self._of_base: dict[str, TaskScores] = {}

    def score(self, folder: Path, *, adapter: Path | None) -> tuple[BenchmarkScore, ...]:
        """Score the base, then an adapter on it; every finished task is kept.

        Args:
            folder: Gets `scores.json` and `samples/`; what it holds already is not scored again.
            adapter: Of what was trained; None scores the base alone.

        Returns:
            All scores of the folder, base before tuned.

        Raises:
            CheckpointError: If the adapter is damaged, or belongs to another base.
        """
        from spectral_ft.evaluation.records import ScoreFile

        file, stages = ScoreFile(folder), self._experiment.benchmark.stages
        file.forget_damaged()
        if "base" in stages:
            for task in self._missing(file, "base"):
                prepared = self._prepared(task, folder)
                finished = self._of_base.get(prepared.fingerprint) or self._base_scores(task, prepared)
                self._of_base[prepared.fingerprint] = finished
                _keep(file, "base", finished)
        if adapter is not None and "tuned" in stages and (missing := self._missing(file, "tuned")):
            from spectral_ft.adapters.origin import check_origin
            from spectral_ft.adapters.wearing import wearing

            label = self._experiment.model.label
            check_origin(adapter, model=label, fingerprint=self._checkpoint.fingerprint)
            with wearing(self._held.model, adapter) as tuned:
                for task in missing:
                    _keep(file, "tuned", self._ask(tuned, task, self._prepared(task, folder), "tuned"))
        return file.scores()

    def _missing(self, file: "ScoreFile", stage: Stage) -> list[SourcedTask]:
        return [task for task in self._tasks if not file.holds(stage, task.task.name)]

    def _prepared(self, task: SourcedTask, folder: Path) -> "PreparedTask":
        return task.prepare(self._experiment.benchmark.num_fewshot, folder / "tasks")

    def _base_scores(self, task: SourcedTask, prepared: "PreparedTask") -> "TaskScores":
        return self._cache.fetch(
            prepared,
            asked=f"{self._experiment.benchmark.limit} {self._experiment.benchmark.asked}",
            version=task.evaluator_version,
            score=lambda: self._ask(self._held.model, task, prepared, "base"),
        )

    def _ask(self, model: "torch.nn.Module", task: SourcedTask, prepared: "PreparedTask", stage: Stage) -> "TaskScores":
        benchmark, source = self._experiment.benchmark, self._experiment.model
        context = self._checkpoint.context_length
        from spectral_ft.models.device import autocast, autocast_dtype, compute_device

        mixed, device = autocast_dtype(source.dtype, compute_device()), compute_device()
        if task.task.classes is not None:
            from spectral_ft.evaluation.classifier import score_classifier

            with autocast(mixed, device):
                return score_classifier(
                    model,
                    self._tokenizer,
                    prepared,
                    benchmark,
                    labels=source.labels or [],
                    positive=task.task.classes[-1],
                    stage=stage,
                    context=context,
                )
        from spectral_ft.evaluation.harness import score_task

        return score_task(
            model,
            self._tokenizer,
            prepared,
            benchmark,
            kind=source.kind,
            stage=stage,
            context=context,
            mixed=mixed,
        )

    @cached_property
    def _cache(self) -> "BaseScoreCache":
        from spectral_ft.evaluation.records import BaseScoreCache
        from spectral_ft.models.device import compute_device, resolve_dtype

        source, checkpoint = self._experiment.model, self._checkpoint
        # A classifier's head may be drawn with the run's seed.
        head = "" if source.labels is None else f" {source.labels} {self._experiment.seed}"
        beside = f" {checkpoint.settings_fingerprint} {tokenizer_fingerprint(checkpoint)}"
        return BaseScoreCache(
            self._experiment.benchmark.cache_folder,
            model=checkpoint.fingerprint + beside + head,
            precision=f"{self._experiment.quantization.label} {resolve_dtype(source.dtype, compute_device())}",
        )

    @cached_property
    def _tokenizer(self) -> "PreTrainedTokenizerBase":
        from spectral_ft.models.loading import load_tokenizer

        source = self._experiment.model
        return load_tokenizer(self._checkpoint.folder, kind=source.kind, trust_remote_code=source.trust_remote_code)


def _keep(file: "ScoreFile", stage: Stage, finished: "TaskScores") -> None:
    file.add(stage, finished)
    leading = finished.scores[0]
    log.info("scored %s (%s): %s %.4f on %d items", leading.task, stage, leading.metric, leading.value, leading.n)
