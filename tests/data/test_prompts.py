"""Oracle: the published templates, copied from LLM-Adapters' finetune.py and evaluate.py; `~` stands for a space."""

import pytest

from spectral_ft.data import prompts

TRAINING = """\
Below is an instruction that describes a task. Write a response that appropriately completes the request.~~

                ### Instruction:
                Add 2 and 2.
~~~~~~~~~~~~~~~~
                ### Response:
~~~~~~~~~~~~~~~~"""
EVALUATION = """\
Below is an instruction that describes a task. Write a response that appropriately completes the request.~

                ### Instruction:
                Add 2 and 2.

                ### Response:
~~~~~~~~~~~~~~~~"""


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (prompts.alpaca, TRAINING),
        (prompts.alpaca_evaluation, EVALUATION),
        (prompts.question, "Question: Add 2 and 2.\nAnswer:"),
        (prompts.plain, "Add 2 and 2."),
    ],
)
def test_prompts_are_the_published_ones_to_the_space(template, expected):
    assert template("Add 2 and 2.") == expected.replace("~", " ")


def test_braces_in_an_instruction_are_text():
    assert "{x} %s" in prompts.alpaca("{x} %s")
