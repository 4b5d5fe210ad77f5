"""One task of a benchmark: which protocol it has from which source.

| source | `standard` | `paper` |
|---|---|---|
| the hub | lm-eval's own task (`harness_task`) | no |
| a local file in the raw form | the same task on these items | template |
| a local file in LLM-Adapters' form | no: it lacks what the task shows | template |
| generated | template | no |
| a local file or the hub, classes | our own evaluator of classifiers | no |
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spectral_ft.errors import ConfigError

TaskProtocol = Literal["standard", "paper"]


class TestItem(Protocol):
    """What a data source gives for one item."""

    @property
    def instruction(self) -> str:
        """What is asked."""
        ...

    @property
    def completion(self) -> str:
        """What should be written."""
        ...

    @property
    def answer(self) -> str:
        """What is right."""
        ...

    @property
    def fields(self) -> Mapping[str, Any]:
        """What lm-eval's own template reads; empty where the source lacks it."""
        ...


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Task:
    """A task by name."""

    name: str
    templates: dict[TaskProtocol, str]
    """Our own task files in `evaluation/tasks`, by protocol."""
    rows: Callable[[dict[str, Any]], Any] | None = None
    """Row of a local file to item."""
    own_items: Callable[[], list[Any]] | None = None
    """Gives the items where there is no local file: generated, or from the hub."""
    folders: list[str] | None = None
    """Its names under a folder of many tasks."""
    harness_task: str | None = None
    """lm-eval's own task file, below its `tasks` folder."""
    classes: list[str] | None = None
    """What texts are sorted into, where that is the task; a classifier's evaluator scores it, and nothing else."""

    def check_model(self, kind: Literal["causal_lm", "seq2seq", "classifier"], labels: Sequence[str] | None) -> None:
        """Refuse a model that cannot do this task.

        Args:
            kind: Of the model.
            labels: Of a classifier.

        Raises:
            ConfigError: If the task is to sort texts and the model is no classifier of its classes, or the task is to
                write and the model is a classifier.
        """
        if self.classes is None and kind == "classifier":
            raise ConfigError(
                f"benchmark {self.name} wants a written answer, and model.kind=classifier writes none (lm-eval would "
                "score it all the same): use a benchmark with classes, such as benchmark=sst2."
            )
        if self.classes is None:
            return
        if kind != "classifier":
            raise ConfigError(
                f"benchmark {self.name} sorts texts into {', '.join(self.classes)}, which model.kind={kind} does not: "
                "use a classifier, such as model=bert-base, or another benchmark."
            )
        if missing := [name for name in self.classes if name not in (labels or ())]:
            raise ConfigError(
                f"benchmark {self.name} has the class {missing[0]!r}, none of model.labels={list(labels or ())}: the "
                f"labels must be the names {', '.join(self.classes)}, in the order of the model's ids."
            )

    def choose_protocol(
        self, asked: Literal["auto", "standard", "paper"], items: Sequence[TestItem] | None
    ) -> TaskProtocol:
        """The protocol that is used.

        Args:
            asked: The option; `auto` takes `paper` for local files, otherwise `standard`.
            items: Of a local file or generated; None for the hub.

        Returns:
            The protocol.

        Raises:
            ConfigError: If this task has no such protocol from this source.
        """
        if asked == "auto":
            asked = "paper" if items is not None and "paper" in self.templates else "standard"
        if asked in self.templates and items is not None:
            return asked
        if asked == "standard" and items is not None and self.classes is not None:
            return asked
        if asked == "standard" and self.harness_task and (items is None or items[0].fields):
            return asked
        if items is None:
            way_out = "From the hub only `standard` exists; for `paper` give benchmark.data_dir=FOLDER."
        elif asked == "standard":
            way_out = "These local items lack what lm-eval's own task shows; use benchmark.protocol=paper, or the hub."
        else:
            way_out = f"It has {', '.join(self.templates) or 'no own template'}; use benchmark.protocol=standard."
        raise ConfigError(f"benchmark {self.name} does not exist as protocol={asked} from this source. {way_out}")
