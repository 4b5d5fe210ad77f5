"""The tasks of a benchmark with their items, read before anything is trained or loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spectral_ft.data.benchmark_items import local_fewshot_items, local_items
from spectral_ft.data.prompts import alpaca_evaluation, plain
from spectral_ft.data.rows import Item
from spectral_ft.evaluation.task import Task, TaskProtocol
from spectral_ft.experiment import Experiment

if TYPE_CHECKING:
    from spectral_ft.evaluation.prepare import PreparedTask


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
