"""The options of the evaluation stage."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.errors import ConfigError, DataError
from spectral_ft.evaluation.task import Task
from spectral_ft.types import Stage

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Benchmark:
    """One task or several, and how they are scored."""

    tasks: dict[str, Task]
    data_dir: str | None
    protocol: Literal["auto", "standard", "paper"]
    limit: Count | None
    num_fewshot: Annotated[int, Field(ge=0)] | None
    batch_size: Count | None
    generation: dict[str, Any] | None
    """What the task's own generation settings are overridden by, by the harness's names."""
    chat_template: bool
    gold_loss: bool
    stages: list[Stage]
    cache: str | Literal[False]
    prompt: Literal["protocol", "dataset"] = "protocol"
    """How our own templates ask: as the protocol does, or as the training examples are written."""

    def __post_init__(self) -> None:
        """Check that generation ends, and that what is set has a meaning.

        Raises:
            ConfigError: If no new token may be written, the limit is given under another name, or prompts and answers
                are set where a classifier reads plain texts.
        """
        asked = {"num_fewshot": self.num_fewshot, "generation": self.generation, "chat_template": self.chat_template}
        if self.tasks and all(task.classes is not None for task in self.tasks.values()):
            for name, value in asked.items():
                if value:
                    raise ConfigError(
                        f"benchmark.{name}={value} has no meaning for {', '.join(self.tasks)}, of which a classifier "
                        "reads the plain texts: leave it out."
                    )
        if wrong := sorted({"max_length", "max_new_tokens"} & set(self.generation or {})):
            raise ConfigError(
                f"benchmark.generation.{wrong[0]} is not the harness's name: use benchmark.generation.max_gen_toks."
            )
        limit = (self.generation or {}).get("max_gen_toks", 1)
        if not isinstance(limit, int) or limit < 1:
            raise ConfigError(f"benchmark.generation.max_gen_toks={limit}: at least 1 new token must be allowed.")

    @property
    def asked(self) -> str:
        """What changes the answers, beside the task itself and its limit."""
        return f"{sorted((self.generation or {}).items())} {self.chat_template} {self.gold_loss}"

    @property
    def cache_folder(self) -> Path | None:
        """Where base-model scores are shared by runs, or None."""
        return Path(self.cache).expanduser() / "base_scores" if self.cache else None

    def folder_of(self, task: Task, *, dataset: str, dataset_folder: str | None) -> Path | None:
        """The local folder of a task.

        Args:
            task: One of `tasks`.
            dataset: Name of the data set that is trained on.
            dataset_folder: Its local folder, used where `data_dir` is not set and the data set is the task's own.

        Returns:
            The folder, or None for the hub.

        Raises:
            DataError: If `data_dir` lacks the folders of some of several tasks.
        """
        if self.data_dir is not None:
            folder = Path(self.data_dir).expanduser()
            self._check_folders(folder)
            return folder
        if dataset != task.name or not dataset_folder:
            return None
        folder = Path(dataset_folder).expanduser()
        return folder.parent if folder.is_file() else folder  # a file there is what is trained on

    def _check_folders(self, folder: Path) -> None:
        # With a single task the folder may hold the test file itself; several would all read that one file.
        wanted = {task.name: task.folders for task in self.tasks.values() if task.folders}
        if len(wanted) < 2 or not folder.exists():
            return  # a folder that does not exist is named where it is read
        missing = [name for name, names in wanted.items() if not any((folder / each).is_dir() for each in names)]
        if missing:
            there = ", ".join(name for name in wanted if name not in missing) or "none"
            folders = ", ".join(wanted[name][0] for name in missing)
            raise DataError(
                f"benchmark.data_dir={folder} has no folder for {', '.join(missing)} ({folders}); of the "
                f"{len(wanted)} tasks it has {there}. Add them, or leave them out: "
                f"{' '.join(f'~benchmark.tasks.{name}' for name in missing)}."
            )
