"""Prepared tasks through lm-eval, with a model that says what it is told to.

Oracles: for `standard`, lm-eval's own task file fed with the same rows as a stand-in for the hub's data set; for
`paper`, prompts, decoding and scores written down from the definition.
"""

import json
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.evaluator import simple_evaluate

from spectral_ft.data.prompts import alpaca_evaluation
from spectral_ft.data.rows import Item
from spectral_ft.errors import DataError
from spectral_ft.evaluation import extraction
from spectral_ft.evaluation.prepare import PreparedTask, prepare
from spectral_ft.evaluation.task import Task, TaskProtocol
from spectral_ft.stages.benchmarks import source_tasks
from tests.test_compose import built

HARNESS = Path(str(lm_eval.tasks.__file__)).parent
TaskManager = lm_eval.tasks.TaskManager
Rows = list[dict[str, Any]]


class Says(LM):
    """Says what it was given, in this order; a choice is as likely as its text is short."""

    def __init__(self, *responses: str) -> None:
        super().__init__()
        self.responses = responses
        self.asked: list[tuple[Any, ...]] = []

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        self.asked += [request.args for request in requests]
        return [(-float(len(prompt) % 7 + len(choice)), False) for prompt, choice in (each.args for each in requests)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError

    def generate_until(self, requests: list[Instance]) -> list[str]:
        self.asked += [request.args for request in requests]
        return list(self.responses[: len(requests)])


def evaluated(model: Says, file: Path, name: str, num_fewshot: int | None = None) -> dict[str, Any]:
    found = simple_evaluate(
        model=model,
        tasks=[str(file)],
        task_manager=TaskManager(include_defaults=False),
        num_fewshot=num_fewshot,
        bootstrap_iters=0,
    )
    assert found is not None
    scores: dict[str, Any] = found["results"][name]
    return scores


def science(stem: str, *texts: str, key: str, question: str = "question") -> dict[str, Any]:
    return {
        "id": stem,
        question: stem,
        "choices": {"text": texts, "label": list("ABCDE")[: len(texts)]},
        "answerKey": key,
    }


def story(label: str, *, begun: str) -> dict[str, Any]:
    first = f"{begun} [title] A boat lies there."
    return {
        "ind": 4, "activity_label": "Rowing", "ctx_a": first, "ctx_b": "it", "ctx": f"{first} it",
        "endings": ["sinks [step] slowly.", "flies.", "sings.", "reads."], "label": label,
    }  # fmt: skip


WHY = {"question": "Why?", "answerA": "fun", "answerB": "a race", "answerC": "x"}
SCIENCE = [science("Wet?", "fire", "a lot of rain", "sand", key="B"), science("Hot?", "fire", "the moon", key="A")]
RAW: dict[str, tuple[str, str, Rows]] = {
    # lm-eval's name of the task, the hub's split that it scores, rows
    "arc_easy": ("arc_easy", "test", SCIENCE),
    "arc_challenge": ("arc_challenge", "test", SCIENCE[::-1]),
    "openbookqa": (
        "openbookqa",
        "test",
        [
            science("The sun", "is hot", "is wet", "is old now", "is far", key="D", question="question_stem"),
            science("The sea", "is hot", "is wet", "is old now", "is far", key="B", question="question_stem"),
        ],
    ),
    "boolq": (
        "boolq",
        "validation",
        [
            {"question": "is it wet", "passage": "It is rain.", "label": 1, "idx": 0},
            {"question": "is it dry", "passage": "It rains.", "label": 0, "idx": 1},
        ],
    ),
    "piqa": (
        "piqa",
        "validation",
        [
            {"goal": "Dry a cup", "sol1": "Rinse it.", "sol2": "Wipe it with a cloth.", "label": 1},
            {"goal": "Wet a cup", "sol1": "Rinse it.", "sol2": "Wipe it with a cloth.", "label": 0},
        ],
    ),
    "siqa": (
        "social_iqa",
        "validation",
        [
            {"context": "Mia ran.", **WHY, "label": "2"},
            {"context": "Tom sat.", **WHY, "label": "3"},
        ],
    ),
    "hellaswag": (
        "hellaswag",
        "validation",
        [story("1", begun="A man rows."), story("3", begun="A woman rows away.")],
    ),
    "winogrande": (
        "winogrande",
        "validation",
        [
            {"sentence": "The cup fits the box as the _ is big.", "option1": "cup", "option2": "box", "answer": "2"},
            {"sentence": "The cup fits no box as the _ is big.", "option1": "cup", "option2": "box", "answer": "1"},
        ],
    ),
}  # fmt: skip


def learnt(row: dict[str, Any]) -> dict[str, Any]:
    """The same row, asked otherwise."""
    texts = {"question", "question_stem", "goal", "context", "ctx_a", "sentence"}
    return {name: f"Learnt: {value}" if name in texts else value for name, value in row.items()}


def local(name: str, folder: Path, num_fewshot: int | None, **files: Rows) -> PreparedTask:
    folder.mkdir()
    for split, rows in files.items():
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = (f"benchmark={name}", f"benchmark.data_dir={folder}", "benchmark.protocol=standard")
    (task,) = source_tasks(built("model=llama-7b", *options))
    return task.prepare(num_fewshot, folder / "tasks")


@pytest.mark.parametrize("num_fewshot", [None, 1])
@pytest.mark.parametrize("name", RAW)
def test_a_standard_task_asks_of_local_rows_what_lm_eval_asks_of_the_hubs(
    name: str, num_fewshot: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, split, rows = RAW[name]
    train = [learnt(row) for row in (*rows, rows[0])]
    task = local(name, tmp_path / "data", num_fewshot, test=rows, train=train)
    assert not task.rules
    ours = Says()
    scores = evaluated(ours, task.file, name)

    hub = datasets.DatasetDict({
        **{empty: datasets.Dataset.from_list([]) for empty in ("validation", "test")},
        split: datasets.Dataset.from_list(rows),
        "train": datasets.Dataset.from_list(train),
    })
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: hub)
    file = HARNESS / str(built(f"benchmark={name}").benchmark.tasks[name].harness_task)
    bare = Says()
    expected = evaluated(bare, file, theirs, num_fewshot)
    assert ours.asked == bare.asked
    assert len(ours.asked) >= 4
    numbers = {key for key in expected if "," in key}
    assert "acc,none" in numbers
    assert {key: scores[key] for key in numbers} == {key: expected[key] for key in numbers}


def test_examples_come_from_the_training_file_never_from_the_test(tmp_path: Path) -> None:
    for name in RAW:
        rows = RAW[name][2]
        task = local(name, tmp_path / name, 1, test=rows, train=[learnt(row) for row in (*rows, *rows)])
        model = Says()
        evaluated(model, task.file, name)
        for asked in model.asked:
            example, _, item = "".join(asked).partition("\n\n")
            assert "Learnt" in example and "Learnt" not in item


def paper(kind: str, items: list[Item], folder: Path, **options: Any) -> PreparedTask:
    return prepare(
        Task("told", {"paper": f"paper_{kind}"}),
        items,
        protocol="paper",
        prompt=alpaca_evaluation,
        folder=folder,
        **{"fewshot_items": [], "num_fewshot": None} | options,
    )


@pytest.mark.parametrize("kind", ["number", "letter", "true_false", "solution", "answer", "ending", "option"])
def test_examples_of_our_templates_come_from_the_training_file_too(kind: str, tmp_path: Path) -> None:
    items = [Item(f"What is {number}?", f"It is {number}.", str(number)) for number in range(4)]
    train = [Item(f"Learnt: {number}?", f"It was {number}.", str(number)) for number in range(3)]
    task = paper(kind, items, tmp_path, fewshot_items=train, num_fewshot=2)
    model = Says("", "", "", "")
    evaluated(model, task.file, "told")
    shown = {f"{alpaca_evaluation(item.instruction)}{item.completion}\n\n" for item in train}
    for item, (prompt, _) in zip(items, model.asked, strict=True):
        examples = prompt.removesuffix(alpaca_evaluation(item.instruction))
        assert examples != prompt
        assert examples in {one + other for one in shown for other in shown - {one}}


def test_examples_that_are_not_there_are_refused_and_no_test_item_is_shown(tmp_path: Path) -> None:
    items = [Item(f"What is {number}?", "", str(number)) for number in range(4)]
    with pytest.raises(DataError, match=r"told with 2 examples .* has as many; 1 are there\. .*num_fewshot=1\.$"):
        paper("number", items, tmp_path, fewshot_items=items[:1], num_fewshot=2)
    (generated,) = source_tasks(built("benchmark.num_fewshot=2"))
    with pytest.raises(DataError, match=r"wordmath generates its items .*: set benchmark\.num_fewshot=0\.$"):
        generated.prepare(2, tmp_path)


def test_examples_in_another_form_than_the_standard_task_shows_are_refused(tmp_path: Path) -> None:
    copies = [{"instruction": "Learnt?", "input": "", "output": "1", "answer": "1"}]
    with pytest.raises(DataError, match=r"arc_easy with 1 examples .*, in the data set's own form; 0 are there"):
        local("arc_easy", tmp_path / "data", 1, test=SCIENCE, train=copies)


@pytest.mark.parametrize(
    ("kind", "tokens", "told", "published", "strict"),
    [
        # told: right answer, response
        ("number", 256, [("7.0", "The answer is 7 of 9"), ("8", "8."), ("3", "16-3")], 1 / 3, 1),
        ("letter", 256, [("C", "Because: C"), ("B", "Because"), ("D", "(D)")], 2 / 3, 2 / 3),
        ("true_false", 32, [("true", "True"), ("true", "true"), ("false", "true or false")], 1 / 3, 2 / 3),
        ("solution", 32, [("solution1", "solution1/solution2"), ("solution2", "x")], 1 / 2, 0),
        ("answer", 32, [("answer5", "the correct answer is answer5"), ("answer1", "answer12")], 1, 1 / 2),
        ("ending", 32, [("ending4", "ending4"), ("ending3", "")], 1 / 2, 1 / 2),
        ("option", 32, [("option2", "Option2"), ("option1", "option1")], 1 / 2, 1),
    ],
)
def test_a_paper_task_has_the_published_prompt_decoding_and_scores(
    kind: str, tokens: int, told: list[tuple[str, str]], published: float, strict: float, tmp_path: Path
) -> None:
    items = [Item(f"What is {number}?", "", gold) for number, (gold, _) in enumerate(told)]
    task = paper(kind, items, tmp_path)
    assert task.rules == {"paper": f"paper_{kind}", "strict": f"strict_{kind}"}
    model = Says(*(response for _, response in told))
    scores = evaluated(model, task.file, "told")
    assert scores["paper,none"] == pytest.approx(published)
    assert scores["strict,none"] == pytest.approx(strict)
    assert [prompt for prompt, _ in model.asked] == [alpaca_evaluation(item.instruction) for item in items]
    for _, decoding in model.asked:
        assert (decoding["num_beams"], decoding["do_sample"], decoding["max_gen_toks"]) == (4, False, tokens)
        assert decoding["until"] == []


@pytest.mark.parametrize("protocol", ["paper", "standard"])
def test_base_scores_of_other_rules_are_not_taken_from_the_cache(
    protocol: TaskProtocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fingerprint() -> str:
        task = Task("told", {"paper": "paper_number"}, harness_task="piqa/piqa.yaml")
        items = [Item("What?", "", "1", {"goal": "What?"})]
        return prepare(
            task,
            items,
            protocol=protocol,
            prompt=alpaca_evaluation,
            fewshot_items=[],
            num_fewshot=None,
            folder=tmp_path,
        ).fingerprint

    before = fingerprint()
    changed = tmp_path / "extraction.py"
    changed.write_text(Path(extraction.__file__).read_text().replace("####", "@@@@"))
    monkeypatch.setattr(extraction, "__file__", str(changed))
    assert (fingerprint() == before) == (protocol == "standard")
