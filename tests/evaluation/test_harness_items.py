"""Items and examples as the harness loads them; oracle: rows in a file that stands in for the hub."""

import json
from pathlib import Path
from typing import Any

import pytest

from spectral_ft.errors import ConfigError, HubError
from spectral_ft.evaluation.harness_items import harness_items
from spectral_ft.evaluation.prepare import PreparedTask
from tests.evaluation.test_prepare import RAW, local
from tests.test_compose import built

ROWS = [{"q": f"What is {n} plus one?", "a": str(n + 1)} for n in range(4)]
AQUA = [
    {"question": f"{n}?", "options": [f"{c}){n}" for c in "ABCDE"], "rationale": "So.", "correct": "B"}
    for n in range(3)
]


def hub_task(folder: Path, *, num_fewshot: int, more: str = "", **files: list[dict[str, Any]]) -> PreparedTask:
    """A task whose rows the harness itself fetches."""
    for split, rows in files.items():
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    paths = ", ".join(f"{split}: {folder / split}.jsonl" for split in files)
    file = folder / "task.yaml"
    file.write_text(
        f"""
task: mine
dataset_path: json
dataset_kwargs: {{data_files: {{{paths}}}, cache_dir: {folder / "arrow"}}}
test_split: test
output_type: generate_until
doc_to_text: "Q: {{{{q}}}}"
doc_to_target: "{{{{a}}}}"
num_fewshot: {num_fewshot}
{more}
"""
    )
    return PreparedTask("mine", "standard", file, "f")


def test_all_items_come_with_what_is_asked(tmp_path: Path) -> None:
    found = harness_items(hub_task(tmp_path, num_fewshot=0, test=ROWS))
    assert [item.row for item in found] == ROWS
    assert [item.text for item in found] == [f"Q: {row['q']}" for row in ROWS]


@pytest.mark.parametrize("name", RAW)
def test_of_every_standard_task(name: str, tmp_path: Path) -> None:
    found = harness_items(local(name, tmp_path / "data", None, test=RAW[name][2]))
    assert len(found) == 2
    assert all((item.text is None) == (name == "winogrande") for item in found)  # its prompts are two an item
    row = built(f"benchmark={name}").benchmark.tasks[name].rows
    assert row is not None
    if name == "hellaswag":  # of a local row only what the task reads is written, which has no `ctx`
        return
    assert [row(item.row).instruction for item in found] == [row(raw).instruction for raw in RAW[name][2]]


def test_a_task_that_would_show_what_it_scores_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"benchmark mine: .* no examples apart from the items that are scored"):
        harness_items(hub_task(tmp_path, num_fewshot=2, test=ROWS))
    harness_items(hub_task(tmp_path, num_fewshot=2, more="training_split: train", test=ROWS, train=ROWS))
    samples = "fewshot_config: {samples: [{q: '1', a: '2'}]}"
    harness_items(hub_task(tmp_path, num_fewshot=1, more=samples, test=ROWS))
    with pytest.raises(ConfigError, match=r"cannot show examples \(Sample larger than population"):
        harness_items(hub_task(tmp_path, num_fewshot=2, more=samples, test=ROWS))


def test_a_task_that_cannot_show_its_answers_is_refused(tmp_path: Path) -> None:
    task = local("aqua", tmp_path / "data", 1, test=AQUA, train=AQUA)
    with pytest.raises(ConfigError, match=r"aqua: lm-eval's own task cannot show examples \(Answer is not a string"):
        harness_items(task)


def test_a_hub_out_of_reach_is_a_sentence(tmp_path: Path) -> None:
    harness_task = built("benchmark=aqua").benchmark.tasks["aqua"].harness_task
    import lm_eval.tasks

    file = tmp_path / "aqua.yaml"
    include = Path(str(lm_eval.tasks.__file__)).parent / str(harness_task)
    file.write_text(f"include: {include}\ntask: aqua\n")
    with pytest.raises(HubError, match=r"benchmark aqua .*OFFLINE.*benchmark\.data_dir=FOLDER"):
        harness_items(PreparedTask("aqua", "standard", file, "f"))
