"""Oracle: every cell of the table in `docs/benchmarks.md` is tried, with items in the form that its heading names."""

import re

import pytest

from spectral_ft.configuration import CONF
from spectral_ft.data.rows import Item
from spectral_ft.errors import ConfigError
from spectral_ft.evaluation.protocol_table import COLUMNS, protocol_table
from spectral_ft.evaluation.rules import RULES
from tests.conftest import REPOSITORY
from tests.test_compose import built

PAGE = (REPOSITORY / "docs" / "benchmarks.md").read_text()
ITEMS = {
    "hub": None,
    "raw": [Item("q", "a", "1", {"question": "q"})],
    "copy": [Item("q", "a", "1")],
    "generated": [Item("q", "a", "1")],
}


def all_tasks():
    names = [path.stem for path in CONF.glob("benchmark/[!_]*.yaml")]
    tasks = {
        name: task for choice in sorted(names) for name, task in built(f"benchmark={choice}").benchmark.tasks.items()
    }
    return [tasks[name] for name in sorted(tasks)]


TASKS = all_tasks()


def cells():
    rows = [line[2:-2].split(" | ") for line in protocol_table(TASKS).splitlines()]
    return {(row[0], heading): cell.strip() for row in rows[2:] for heading, cell in zip(rows[0], row, strict=True)}


def test_the_page_has_the_table_of_the_code():
    assert protocol_table(TASKS) in PAGE, protocol_table(TASKS)


def test_every_published_set_is_there_with_its_number_of_items():
    published = {
        "aqua": 254, "gsm8k": 1_319, "mawps": 238, "svamp": 1_000, "boolq": 3_270, "piqa": 1_838, "siqa": 1_954,
        "hellaswag": 10_042, "winogrande": 1_267, "arc_easy": 2_376, "arc_challenge": 1_172, "openbookqa": 500,
    }  # fmt: skip
    assert {task.name: task.size for task in TASKS if task.size} == published
    assert set(published) | {"wordmath", "sst2", "imdb"} == {task.name for task in TASKS}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_cell_is_what_a_user_gets(task, caplog):
    for heading, protocol, source in COLUMNS:
        if source not in task.sources:
            assert not cells()[task.name, heading]
        elif cells()[task.name, heading] == "yes":
            items = ITEMS["raw" if task.classes and source == "hub" else source]  # a classifier's are read by us
            assert task.choose_protocol(protocol, items) == protocol
        else:
            with pytest.raises(ConfigError, match=f"benchmark {task.name} does not exist as protocol={protocol}"):
                task.choose_protocol(protocol, ITEMS[source])


@pytest.mark.parametrize(
    ("suite", "names"),
    [
        ("core", "gsm8k aqua boolq"),
        ("arithmetic", "aqua gsm8k mawps svamp"),
        ("commonsense", "boolq piqa siqa hellaswag winogrande arc_easy arc_challenge openbookqa"),
        ("none", ""),
    ],
)
def test_a_suite_has_its_tasks_in_the_order_of_the_published_table(suite, names):
    assert list(built(f"benchmark={suite}").benchmark.tasks) == names.split()
    assert not names or re.search(rf"\| `{suite}` \|", PAGE)


def test_every_kind_of_rule_is_on_the_page():
    section = PAGE.partition("## How an answer is read")[2]
    for kind in {name.partition("_")[2] for name in RULES}:
        assert f"`{kind}`" in section, kind
