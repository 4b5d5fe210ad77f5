"""Oracles: LLM-Adapters' own files, taken apart into the raw form; and one item of each other set, written by hand.

Where a set's copy is not at hand, its form is that of the examples in the papers' appendices.
"""

import re

import pytest

from spectral_ft.data import choice_rows
from spectral_ft.data.files import read_rows
from spectral_ft.data.rows import Item

LETTERS = "ABCDE"
FORMS = [
    choice_rows.arc,
    choice_rows.openbookqa,
    choice_rows.piqa,
    choice_rows.siqa,
    choice_rows.hellaswag,
    choice_rows.winogrande,
]


def science(question="question", *, labels=LETTERS, **changes):
    row = {
        question: "Which is wet?",
        "choices": {"text": ["fire", "rain", "sand"], "label": list(labels[:3])},
        "answerKey": labels[1],
    }
    return row | changes


def taken_apart(row, question):
    """A row of LLM-Adapters' files in the raw form."""
    begun, listed, _ = row["instruction"].rsplit("\n\n", 2)
    texts = re.split(r" ?Answer\d: ", listed)[1:]
    return {
        question: begun.removeprefix("Please choose the correct answer to the question: "),
        "choices": {"text": texts, "label": list(LETTERS[: len(texts)])},
        "answerKey": LETTERS[int(row["answer"][-1]) - 1],
    }


@pytest.mark.parametrize(
    ("folder", "split", "convert", "question"),
    [
        (folder, split, convert, question)
        for folder, convert, question in (
            ("ARC-Easy", choice_rows.arc, "question"),
            ("ARC-Challenge", choice_rows.arc, "question"),
            ("openbookqa", choice_rows.openbookqa, "question_stem"),
        )
        for split in ("test", "train")
    ],
)
def test_a_raw_row_asks_what_its_copy_asks(folder, split, convert, question, shared_data):
    found = read_rows(shared_data / "llm_adapters" / folder / f"{split}.json")
    for row in found:
        copied = convert(row)
        raw = taken_apart(row, question)
        assert convert(raw) == Item(*copied[:3], raw)
        assert not copied.fields


@pytest.mark.parametrize("form", FORMS)
def test_every_set_has_the_copies_form(form):
    row = {"instruction": "Which?", "input": "", "output": "the correct answer is x1", "answer": "x1"}
    assert form(row) == Item("Which?", "the correct answer is x1", "x1")


@pytest.mark.parametrize("labels", ["ABC", "123"])
def test_choices_are_answered_by_their_place_whatever_their_labels(labels):
    item = choice_rows.arc(science(labels=labels))
    assert item.instruction == (
        "Please choose the correct answer to the question: Which is wet?\n\n"
        "Answer1: fire Answer2: rain Answer3: sand\n\nAnswer format: answer1/answer2/answer3"
    )
    assert (item.completion, item.answer) == ("the correct answer is answer2", "answer2")
    assert item.fields == science(labels=labels)


def test_openbookqa_calls_its_question_a_stem():
    row = science("question_stem", answerKey=" B")
    item = choice_rows.openbookqa(row)
    assert item[:3] == choice_rows.arc(science())[:3]
    assert item.fields == row | {"answerKey": "B"}


def test_piqas_solutions_stand_apart():
    row = {"goal": "Dry a cup", "sol1": "Rinse it.", "sol2": "Wipe it.", "label": 1}
    assert choice_rows.piqa(row) == Item(
        "Please choose the correct solution to the question: Dry a cup\n\nSolution1: Rinse it.\n\nSolution2: Wipe it."
        "\n\nAnswer format: solution1/solution2",
        "the correct answer is solution2",
        "solution2",
        row,
    )


def test_siqas_labels_begin_at_one():
    row = {"context": "Mia ran.", "question": "How is she?", "answerA": "tired", "answerB": "sad", "answerC": "wet"}
    assert choice_rows.siqa(row | {"label": 3}) == Item(
        "Please choose the correct answer to the question: Mia ran. How is she?\n\n"
        "Answer1: tired Answer2: sad Answer3: wet\n\nAnswer format: answer1/answer2/answer3",
        "the correct answer is answer3",
        "answer3",
        row | {"label": "3"},
    )


def test_hellaswags_labels_begin_at_nought():
    row = {
        "activity_label": "Rowing",
        "ctx": "A boat lies there. it",
        "ctx_a": "A boat lies there.",
        "ctx_b": "it",
        "endings": ["sinks.", "flies.", "sings.", "reads."],
        "label": "0",
    }
    assert choice_rows.hellaswag(row) == Item(
        "Please choose the correct ending to complete the given sentence: Rowing: A boat lies there. it\n\n"
        "Ending1: sinks. Ending2: flies. Ending3: sings. Ending4: reads."
        "\n\nAnswer format: ending1/ending2/ending3/ending4",
        "the correct answer is ending1",
        "ending1",
        {name: value for name, value in row.items() if name != "ctx"},
    )


def test_winograndes_format_follows_without_an_empty_line():
    row = {"sentence": "The cup fits the box as the _ is big.", "option1": "cup", "option2": "box", "answer": "2"}
    assert choice_rows.winogrande(row) == Item(
        "Please choose the correct answer to fill in the blank to complete the given sentence: "
        "The cup fits the box as the _ is big.\n\nOption1: cup Option2: box Answer format: option1/option2",
        "the correct answer is option2",
        "option2",
        row,
    )


PIQA = {"goal": "Dry a cup", "sol1": "Rinse it.", "sol2": "Wipe it."}


@pytest.mark.parametrize(
    ("form", "row", "message"),
    [
        (choice_rows.arc, science(answerKey="F"), "the answer is 'F', none of A, B, C"),
        (choice_rows.piqa, PIQA | {"label": -1}, "the label is -1, no number of a choice"),
        (choice_rows.piqa, PIQA | {"label": ""}, "the label is '', no number of a choice"),
        (choice_rows.piqa, PIQA | {"label": 2}, "the label names choice 3 of 2"),
        (
            choice_rows.winogrande,
            {"sentence": "_", "option1": "a", "option2": "b", "answer": "0"},
            "the label names choice 0 of 2",
        ),
    ],
)
def test_a_hidden_or_wrong_label_is_refused(form, row, message):
    with pytest.raises(ValueError, match=message):
        form(row)


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_column_is_a_key_error(form):
    with pytest.raises(KeyError):
        form({"text": "unlabelled"})
