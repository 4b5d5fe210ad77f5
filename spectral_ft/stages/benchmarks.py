"""The tasks of a benchmark with their items, read before anything is trained or loaded."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from spectral_ft.data.benchmark_items import local_fewshot_items, local_items
from spectral_ft.data.prompts import TEMPLATES, alpaca_evaluation, plain
from spectral_ft.data.rows import Item
from spectral_ft.errors import ConfigError
from spectral_ft.evaluation.task import Task, TaskProtocol
from spectral_ft.experiment import Experiment
from spectral_ft.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    from spectral_ft.evaluation.prepare import PreparedTask

log = logging.getLogger(__name__)
SHOWN = 240
"""Letters of a prompt in a warning; of a longer one its middle is left out."""


class FirstPrompt(NamedTuple):
    """How the first item of a task is asked."""

    instruction: str | None
    """What it asks; None if the harness's row has other columns."""
    text: str | None
    """The prompt around it, without examples; None if the task asks in another form than one text."""


@dataclass(frozen=True)
class SourcedTask:
    """A task with what its source gave."""

    task: Task
    protocol: TaskProtocol
    items: list[Item] | None
    """None: the harness fetches its own from the hub."""
    fewshot: list[Item]
    dataset_prompt: str | None = None
    """Name of the training prompt, if it is asked in that; None: in the protocol's own."""

    @property
    def own_template(self) -> bool:
        """Whether our own template asks, and not the harness's task or nobody."""
        return self.protocol in self.task.templates and self.items is not None

    @property
    def prompt(self) -> Callable[[str], str]:
        """Of our own template: instruction to prompt."""
        if self.dataset_prompt is not None:
            return TEMPLATES[self.dataset_prompt]
        return alpaca_evaluation if self.protocol == "paper" else plain

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
            prompt=self.prompt,
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

        texts = [self.instruction(item.row) or item.text for item in harness_items(self.prepare(num_fewshot, folder))]
        return None if None in texts else [str(text) for text in texts]

    def instruction(self, row: dict[str, Any]) -> str | None:
        """What a row of the harness asks, as training rows of the same kind ask it.

        Args:
            row: Of the harness's own task.

        Returns:
            The text; None if the row has other columns than ours.
        """
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
        sourced = SourcedTask(task, task.choose_protocol(benchmark.protocol, items), items, fewshot)
        found.append(_asked_as_trained(sourced, dataset.prompt) if benchmark.prompt == "dataset" else sourced)
    return found


def _asked_as_trained(sourced: SourcedTask, prompt: str) -> SourcedTask:
    if not sourced.own_template:
        whose = "a classifier reads plain texts" if sourced.task.classes is not None else "lm-eval's own task asks"
        way_out = (
            "benchmark.protocol=paper with local files" if "paper" in sourced.task.templates else "another benchmark"
        )
        raise ConfigError(
            f"benchmark.prompt=dataset cannot be for {sourced.task.name} in protocol={sourced.protocol}: {whose}. Use "
            f"benchmark.prompt=protocol, or {way_out}."
        )
    return replace(sourced, dataset_prompt=prompt)


def prepare_tasks(
    experiment: Experiment, checkpoint: Checkpoint, tasks: Sequence[SourcedTask], folder: Path
) -> dict[str, FirstPrompt]:
    """Find whatever can be wrong with how tasks are asked, and fetch their items, before hours are spent on training.

    Args:
        experiment: Its components.
        checkpoint: Of the base, whose tokenizer must know chats where these are asked for.
        tasks: Their files are written.
        folder: Of the run.

    Returns:
        Task to how its first item is asked.

    Raises:
        ConfigError: If a task cannot show the examples that are asked for, or the tokenizer has no chat template.
    """
    benchmark, chat = experiment.benchmark, None
    if benchmark.chat_template and any(task.task.classes is None for task in tasks):
        from spectral_ft.evaluation.asking import check_chat_template
        from spectral_ft.models.loading import load_tokenizer

        source = experiment.model
        chat = load_tokenizer(checkpoint.folder, kind=source.kind, trust_remote_code=source.trust_remote_code)
        check_chat_template(chat)
    asked = {}
    for task in tasks:
        prepared = task.prepare(benchmark.num_fewshot, folder / "tasks")
        first = task.items[0].instruction if task.items else None
        text = first and (task.prompt(first) if task.own_template else first)
        fetched = task.task.classes is None and not task.own_template
        if task.items is None or fetched or (benchmark.num_fewshot and task.task.classes is None):
            from spectral_ft.evaluation.harness_items import harness_items

            item = harness_items(prepared)[0]
            if fetched:
                first, text = first or task.instruction(item.row), item.text
        if chat is not None and text is not None and task.task.classes is None:
            turns = [{"role": "user", "content": text}]
            text = str(chat.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        asked[task.task.name] = FirstPrompt(first, text)
    return asked


def tell_prompts(experiment: Experiment, tasks: Sequence[SourcedTask], asked: Mapping[str, FirstPrompt]) -> None:
    """Warn of each task that asks in another form than the training examples have.

    Spaces and line ends alone are no other form: LLM-Adapters' two published prompts differ in them.

    Args:
        experiment: Its components.
        tasks: Of its benchmark.
        asked: Task to how its first item is asked.
    """
    name = experiment.dataset.prompt
    for task in tasks:
        first, text = asked[task.task.name]
        if first is None or text is None:
            continue
        trained = TEMPLATES[name](first)
        if trained.split() == text.split():
            continue
        fitting = [other for other, template in TEMPLATES.items() if template(first).split() == text.split()]
        ways = [
            *(["benchmark.prompt=dataset asks as it is trained"] if task.own_template else []),
            *(f"dataset.prompt={other} trains as it is asked" for other in fitting[:1]),
        ]
        log.warning(
            "benchmark %s asks in another form than the training examples have. Trained (dataset.prompt=%s): %s Asked: "
            "%s %s",
            task.task.name,
            name,
            _shown(trained),
            _shown(text),
            f"({'; '.join(ways)}.)" if ways else "(The task's own form.)",
        )


def _shown(prompt: str) -> str:
    half = SHOWN // 2
    return repr(prompt if len(prompt) <= SHOWN else f"{prompt[:half]} ... {prompt[-half:]}")
