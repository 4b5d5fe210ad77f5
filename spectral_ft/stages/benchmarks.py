"""The tasks of a benchmark with their items, read before anything is trained or loaded."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_ft.data.benchmark_items import local_fewshot_items, local_items
from spectral_ft.data.prompts import alpaca_evaluation, plain
from spectral_ft.data.rows import Item
from spectral_ft.evaluation.task import Task, TaskProtocol
from spectral_ft.experiment import Experiment
from spectral_ft.models.checkpoint import Checkpoint

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

    def asked(self, num_fewshot: int | None, folder: Path) -> list[str] | None:
        """What each of its items asks, as training rows of the same kind ask it.

        Args:
            num_fewshot: Examples in the prompt; None keeps the task's own number.
            folder: Where its file goes, for items that the harness fetches.

        Returns:
            One text an item, whatever limit is set; where the harness's rows have other columns than ours, what its
            task asks. None where it asks in another form than one text.

        Raises:
            HubError: If the hub cannot be reached or refuses.
        """
        if self.items is not None:
            return [item.instruction for item in self.items]
        from spectral_ft.evaluation.harness_items import harness_items

        texts = [self._instruction(item.row) or item.text for item in harness_items(self.prepare(num_fewshot, folder))]
        return None if None in texts else [str(text) for text in texts]

    def _instruction(self, row: dict[str, Any]) -> str | None:
        if self.task.rows is not None:
            with suppress(KeyError, TypeError, ValueError, IndexError, AttributeError):  # other columns
                return str(self.task.rows(row).instruction)
        return None

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

    Raises:
        ConfigError: If the model cannot do a task, or a setting of generation cannot be.
        DataError: If local files are missing or damaged.
    """
    benchmark, dataset, model = experiment.benchmark, experiment.dataset, experiment.model
    if benchmark.generation:
        from spectral_ft.evaluation.asking import check_generation

        check_generation(benchmark.generation)
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


def prepare_tasks(experiment: Experiment, checkpoint: Checkpoint, tasks: Sequence[SourcedTask], folder: Path) -> None:
    """Find whatever can be wrong with how tasks are asked, and fetch their items, before hours are spent on training.

    Args:
        experiment: Its components.
        checkpoint: Of the base, whose tokenizer must know chats where these are asked for.
        tasks: Their files are written.
        folder: Of the run.

    Raises:
        ConfigError: If a task cannot show the examples that are asked for, or the tokenizer has no chat template.
    """
    benchmark = experiment.benchmark
    if benchmark.chat_template and any(task.task.classes is None for task in tasks):
        from spectral_ft.evaluation.asking import check_chat_template
        from spectral_ft.models.loading import load_tokenizer

        source = experiment.model
        check_chat_template(
            load_tokenizer(checkpoint.folder, kind=source.kind, trust_remote_code=source.trust_remote_code)
        )
    for task in tasks:
        prepared = task.prepare(benchmark.num_fewshot, folder / "tasks")
        if task.items is None or (benchmark.num_fewshot and task.task.classes is None):
            from spectral_ft.evaluation.harness_items import harness_items

            harness_items(prepared)
