"""Oracle: the table of sources and protocols in the module, row by row."""

import pytest
from pydantic import ValidationError

from spectral_ft.data.rows import Item
from spectral_ft.errors import ConfigError
from spectral_ft.evaluation.task import Task

GSM8K = Task(name="gsm8k", templates={"paper": "number"}, harness_task="gsm8k/gsm8k.yaml")
WORDMATH = Task(name="wordmath", templates={"standard": "wordmath"})
RAW = [Item("q", "a", "1", {"question": "q"})]
COPY = [Item("q", "a", "1")]


@pytest.mark.parametrize(
    ("task", "items", "asked", "chosen"),
    [
        (GSM8K, None, "auto", "standard"),
        (GSM8K, None, "standard", "standard"),
        (GSM8K, RAW, "auto", "paper"),
        (GSM8K, RAW, "standard", "standard"),
        (GSM8K, RAW, "paper", "paper"),
        (GSM8K, COPY, "auto", "paper"),
        (GSM8K, COPY, "paper", "paper"),
        (WORDMATH, COPY, "auto", "standard"),
        (WORDMATH, COPY, "standard", "standard"),
    ],
)
def test_a_source_has_its_protocols(task, items, asked, chosen):
    assert task.choose_protocol(asked, items) == chosen


@pytest.mark.parametrize(
    ("task", "items", "asked", "way_out"),
    [
        (GSM8K, None, "paper", r"gsm8k does not exist as protocol=paper.*for `paper` give benchmark\.data_dir=FOLDER"),
        (GSM8K, COPY, "standard", r"protocol=standard.*lack what lm-eval's own task shows.*protocol=paper"),
        (WORDMATH, COPY, "paper", r"wordmath does not exist as protocol=paper.*It has standard; use .*standard"),
        (WORDMATH, None, "standard", "protocol=standard from this source. From the hub only `standard` exists"),
        (Task(name="t", templates={}), RAW, "paper", "It has no own template"),
    ],
)
def test_any_other_is_refused_with_a_way_out(task, items, asked, way_out):
    with pytest.raises(ConfigError, match=way_out):
        task.choose_protocol(asked, items)


def test_an_unknown_protocol_has_no_template():
    with pytest.raises(ValidationError, match="templates"):
        Task(name="t", templates={"mine": "number"})
