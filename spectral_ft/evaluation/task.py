"""One task of a benchmark: which protocol it has from which source.

| source | `standard` | `paper` |
|---|---|---|
| the hub | lm-eval's own task (`harness_task`) | no |
| a local file in the raw form | the same task on these items | template |
| a local file in LLM-Adapters' form | no: it lacks what the task shows | template |
| generated | template | no |
| a local file or the hub, classes | our own evaluator of classifiers | no |

`protocol_table.py` writes this down for every benchmark that there is.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spectral_ft.errors import ConfigError

log = logging.getLogger(__name__)

TaskProtocol = Literal["standard", "paper"]
TaskSource = Literal["hub", "raw", "copy", "generated"]
"""The hub; local files in the data set's own form; in LLM-Adapters' form; made here."""


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
    """What texts are sorted into, where that is the task; a classifier's evaluator scores it, and nothing else. Of two
    F1 is that of the last one, in whatever order the model has them."""
    size: int | None = None
    """Items of the published test file, whatever its form."""

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

    @property
    def sources(self) -> tuple[TaskSource, ...]:
        """Where its items may come from."""
        generated = self.own_items is not None and self.rows is None
        if generated:
            return ("generated",)
        if self.classes is not None:
            return ("hub", "raw") if self.own_items else ("raw",)
        return ("hub", "raw", "copy") if self.harness_task else ("raw", "copy")

    def has(self, protocol: TaskProtocol, source: TaskSource) -> bool:
        """Whether a protocol exists from a source.

        Args:
            protocol: The protocol.
            source: One of its sources.

        Returns:
            True if items from there can be scored so.
        """
        if protocol in self.templates and source != "hub":
            return True
        scorer = self.harness_task is not None or self.classes is not None
        return protocol == "standard" and scorer and source in {"hub", "raw"}

    def choose_protocol(
        self, asked: Literal["auto", "standard", "paper"], items: Sequence[TestItem] | None
    ) -> TaskProtocol:
        """The protocol that is used. Says so where the items are not as many as the published ones.

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
        source = self._source_of(items)
        if not self.has(asked, source):
            raise ConfigError(
                f"benchmark {self.name} does not exist as protocol={asked} from this source. "
                f"{self._way_out(asked, source)}"
            )
        if items is not None and self.size not in {None, len(items)}:
            log.warning(
                "benchmark %s has %d items here, %d in the published test file: its scores are of another set",
                self.name, len(items), self.size,
            )  # fmt: skip
        return asked

    def _source_of(self, items: Sequence[TestItem] | None) -> TaskSource:
        if items is None:
            return "hub"
        if self.classes is not None or all(item.fields for item in items):
            return "raw"
        return "copy"

    def _way_out(self, asked: TaskProtocol, source: TaskSource) -> str:
        if source == "hub" and self.harness_task is None:
            return "lm-eval has no task of it: give benchmark.data_dir=FOLDER."
        if source == "hub":
            return "From the hub only `standard` exists; for `paper` give benchmark.data_dir=FOLDER."
        if asked == "standard" and self.harness_task is not None:
            return "These local items lack what lm-eval's own task shows; use benchmark.protocol=paper, or the hub."
        has = ", ".join(each for each in ("standard", "paper") if self.has(each, source))
        return f"It has {has or 'no own template'}; use benchmark.protocol={has or 'standard'}."
