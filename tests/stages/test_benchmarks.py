"""How tasks are asked, compared with how examples are trained; oracle: prompts written out."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spectral_ft.data.prompts import alpaca, alpaca_evaluation
from spectral_ft.data.rows import Item
from spectral_ft.errors import ConfigError
from spectral_ft.evaluation.task import Task
from spectral_ft.stages.benchmarks import FirstPrompt, prepare_tasks, source_tasks, tell_prompts

ITEM = Item("How many?", "4", "4")
OWN = Task("own", {"paper": "paper_number", "standard": "wordmath"}, own_items=lambda: [ITEM])


def experiment(task: Task = OWN, *, trained: str = "plain", **options: Any) -> Any:
    benchmark = {
        "tasks": {task.name: task}, "protocol": "paper", "prompt": "protocol", "generation": None, "num_fewshot": None,
        "chat_template": False, "folder_of": lambda *_, **__: None,
    }  # fmt: skip
    return SimpleNamespace(
        benchmark=SimpleNamespace(**benchmark | options),
        dataset=SimpleNamespace(name="mine", data_dir=None, prompt=trained),
        model=SimpleNamespace(kind="classifier" if task.classes else "causal_lm", labels=task.classes),
    )


def asked(one: Any, folder: Path) -> tuple[Any, dict[str, FirstPrompt]]:
    tasks = source_tasks(one)
    return tasks, prepare_tasks(one, None, tasks, folder)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("trained", "prompt", "text"),
    [
        ("plain", "protocol", alpaca_evaluation("How many?")),
        ("alpaca", "protocol", alpaca_evaluation("How many?")),
        ("alpaca", "dataset", alpaca("How many?")),
        ("question", "dataset", "Question: How many?\nAnswer:"),
        ("plain", "dataset", "How many?"),
    ],
)
def test_a_task_asks_in_the_protocols_form_or_as_trained(trained: str, prompt: str, text: str, tmp_path: Path) -> None:
    one = experiment(trained=trained, prompt=prompt)
    tasks, first = asked(one, tmp_path)
    assert first == {"own": FirstPrompt("How many?", text)}
    assert tasks[0].prompt("How many?") == text


@pytest.mark.parametrize(
    ("trained", "options", "words"),
    [
        ("plain", {}, ["'How many?'", "Below is", "benchmark.prompt=dataset", "dataset.prompt=alpaca"]),
        ("question", {"protocol": "standard"}, ["'Question: How many?", "'How many?'", "dataset.prompt=plain"]),
        ("alpaca", {}, []),  # the published pair, which differs in spaces
        ("alpaca", {"prompt": "dataset"}, []),
        ("plain", {"protocol": "standard"}, []),
    ],
)
def test_two_forms_are_shown_where_they_differ(
    trained: str, options: dict[str, Any], words: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = experiment(trained=trained, **options)
    tasks, first = asked(one, tmp_path)
    with caplog.at_level(logging.WARNING):
        tell_prompts(one, tasks, first)
    assert bool(caplog.records) == bool(words)
    assert all(word in caplog.text for word in words), caplog.text


def test_a_task_that_is_not_asked_by_our_template_cannot_be_asked_as_trained() -> None:
    classes = Task("films", {}, own_items=lambda: [Item("good", "a", "a")], classes=["a", "b"])
    theirs = Task("theirs", {"paper": "paper_number"}, harness_task="gsm8k/gsm8k.yaml")
    for task, word in ((classes, "classifier"), (theirs, "lm-eval")):
        with pytest.raises(ConfigError, match=rf"benchmark\.prompt=dataset.*{task.name}.*{word}"):
            source_tasks(experiment(task, protocol="standard", prompt="dataset"))
