"""Turn a task and its items into a task file that the harness, ours or a bare one, can run.

A prepared task is `tasks/NAME.yaml` in the run folder, with absolute paths, since the harness
resolves relative ones against the working directory.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from spectral_ft import end_marks
from spectral_ft.errors import DataError
from spectral_ft.evaluation import extraction, rules
from spectral_ft.evaluation.task import Task, TaskProtocol, TestItem
from spectral_ft.fingerprint import text_fingerprint
from spectral_ft.storage import write_jsonl, write_text

TEMPLATES = Path(__file__).parent / "tasks"
ANSWERING = ("harness", "language_model", "writing", "stopping", "results", "completions")
RECORDS = [Path(end_marks.__file__), *(TEMPLATES.parent / f"{name}.py" for name in ANSWERING)]
"""What answers, scores and samples are made by, whatever the task."""
Prompt = Callable[[str], str]


@dataclass(frozen=True)
class PreparedTask:
    """A task file and what is recorded of it."""

    name: str
    protocol: TaskProtocol
    file: Path
    fingerprint: str
    """Of the task, its items, what it includes, and the code that makes scores and samples of it."""
    rules: Mapping[str, str] = field(default_factory=dict)
    """Metric of our template that is a rule of extraction, to name of the rule (`evaluation/rules.py`)."""


def prepare(
    task: Task,
    items: Sequence[TestItem] | None,
    *,
    protocol: TaskProtocol,
    prompt: Prompt,
    fewshot_items: Sequence[TestItem],
    num_fewshot: int | None,
    folder: Path,
) -> PreparedTask:
    """Write a task file and its items.

    Args:
        task: The task.
        items: Test items; None takes the harness's own from the hub.
        protocol: One that the task has from this source.
        prompt: Instruction to prompt, for our templates.
        fewshot_items: Training items of the local folder, for prompts with examples.
        num_fewshot: Examples in the prompt; None keeps the task's own number.
        folder: Where to write.

    Returns:
        The prepared task.

    Raises:
        DataError: If examples are wanted and the local folder has too few: the harness would show test items.
    """
    own = protocol in task.templates and items is not None
    template = task.templates[protocol] if own else ""
    source = TEMPLATES / f"{template}.yaml" if own else _harness_tasks() / str(task.harness_task)
    content: dict[str, Any] = {"include": str(source), "task": task.name, "tag": None}
    splits: dict[str, list[dict[str, Any]]] = {}
    if items is not None:
        convert = (lambda item: _own_row(item, prompt)) if own else (lambda item: dict(item.fields))
        splits["test"] = [{"id": number, **convert(item)} for number, item in enumerate(items)]
        if wanted := _shots(source) if num_fewshot is None else num_fewshot:
            splits["train"] = [convert(item) for item in _examples(task, fewshot_items, wanted, own=own)]
            content |= {"training_split": "train", "fewshot_split": "train"}
        else:
            content |= {"training_split": None, "fewshot_split": None}
        if own:  # an example shows all that is to be written, where it is to be written
            apart = prompt("?")[-1].isspace()
            content["fewshot_config"] = {"doc_to_target": "{{completion}}", "target_delimiter": "" if apart else " "}
        else:
            splits["validation"] = splits["test"]  # what some tasks score; which, is left to the task
        files = {}
        for split, lines in splits.items():
            path = (folder / f"{task.name}.{split}.jsonl").absolute()
            write_jsonl(path, lines, durable=False)  # made anew by each call
            files[split] = str(path)
        content |= {
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": files, "cache_dir": str((folder / "arrow").absolute())},
        }
    if num_fewshot is not None:
        content["num_fewshot"] = num_fewshot
    file = (folder / f"{task.name}.yaml").absolute()
    write_text(file, yaml.safe_dump(content, sort_keys=False), durable=False)
    read = [*RECORDS, *(_own_sources() if own else [source])]
    parts = [*(path.read_text() for path in read), repr(sorted(splits.items())), repr(num_fewshot), task.name]
    # `paper_number` looks for a number.
    looked_for = rules.rules_of(template.partition("_")[2])
    return PreparedTask(task.name, protocol, file, text_fingerprint("\n".join(parts)), looked_for)


def _examples(task: Task, found: Sequence[TestItem], wanted: int, *, own: bool) -> list[TestItem]:
    usable = [item for item in found if own or item.fields]
    if len(usable) >= wanted:
        return usable
    if "generated" in task.sources:
        raise DataError(
            f"benchmark {task.name} generates its items and has no examples beside them: set benchmark.num_fewshot=0."
        )
    form = "" if own else ", in the data set's own form"
    raise DataError(
        f"benchmark {task.name} with {wanted} examples in the prompt needs a train.jsonl beside its test file that has "
        f"as many{form}; {len(usable)} are there. Add them, or set benchmark.num_fewshot={len(usable)}."
    )


def _own_sources() -> list[Path]:
    # Whatever a score of ours and its samples depend on, so that none is taken from the cache that other rules made.
    code = [TEMPLATES / "scoring.py", Path(extraction.__file__), Path(rules.__file__)]
    return [*sorted(TEMPLATES.glob("*.yaml")), *code]


def _own_row(item: TestItem, prompt: Prompt) -> dict[str, str]:
    return {"prompt": prompt(item.instruction), "gold": item.answer, "completion": item.completion}


def _harness_tasks() -> Path:
    import lm_eval.tasks

    return Path(str(lm_eval.tasks.__file__)).parent


def _shots(task_file: Path) -> int:
    # How many examples a harness task shows; its YAML has tags that only the harness can load.
    for line in task_file.read_text().splitlines():
        if line.startswith("num_fewshot:"):
            return int(line.partition(":")[2])
    return 0
