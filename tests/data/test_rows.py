"""Oracle: one row of each public form, read by eye."""

import contextlib

import pytest

from spectral_ft.data import rows
from spectral_ft.data.rows import Item

ADAPTERS = {"instruction": "How many?", "input": "", "output": "Two and two. The answer is 4", "answer": "4"}
AQUA = {
    "question": "Half of 6?",
    "options": ["A)3", "B) 2 km", "C)12", "D)0", "E)None"],
    "rationale": "6 / 2 = 3.",
    "correct": "B",
}


@pytest.mark.parametrize("form", [rows.instruction, rows.gsm8k, rows.aqua, rows.boolq, rows.mawps, rows.svamp])
def test_every_data_set_has_the_copies_form(form):
    assert form(ADAPTERS) == Item("How many?", "Two and two. The answer is 4", "4")


def test_an_input_goes_below_the_instruction():
    assert rows.instruction({"instruction": "Add.", "input": "2 and 2", "output": "4"}) == Item(
        "Add.\n2 and 2", "4", ""
    )


def test_any_columns_can_be_named():
    item = rows.columns({"q": "How many?", "a": 4}, instruction="q", completion="a")
    assert item == Item("How many?", "4", "4")


def test_gsm8ks_answer_is_the_number_after_the_mark():
    row = {"question": "How many?", "answer": "He has 1000+200=<<1000+200=1200>>1200.\n#### 1,200"}
    assert rows.gsm8k(row) == Item("How many?", row["answer"], "1200", row)


def test_a_gsm8k_row_without_its_mark_is_refused():
    with pytest.raises(ValueError, match="####"):
        rows.gsm8k({"question": "How many?", "answer": "He has 1,200."})


def test_aquas_choices_are_listed_behind_the_question():
    item = rows.aqua(AQUA)
    assert item.instruction == "Half of 6? Answer Choices: (A) 3 (B) 2 km (C) 12 (D) 0 (E) None"
    assert item.completion == "6 / 2 = 3. The answer is (B)."
    assert item.answer == "B"


def test_aquas_fields_are_those_of_the_harness():
    assert rows.aqua(AQUA).fields == {
        "query": "Q: Half of 6? Answer Choices: (A)3 (B)2 km (C)12 (D)0 (E)None\nA: Among A through E, the answer is",
        "choices": ["(A)3", "(B)2 km", "(C)12", "(D)0", "(E)None"],
        "gold": [1],
    }


def test_a_letter_that_is_no_choice_is_refused():
    with pytest.raises(ValueError, match="not in list"):
        rows.aqua(AQUA | {"correct": "F"})


@pytest.mark.parametrize(("answer", "word"), [(True, "true"), (False, "false")])
def test_boolq_is_asked_as_the_copies_ask_it(answer, word):
    # the form of the first row of LLM-Adapters' boolq/test.json
    expected = Item(
        "Please answer the following question with true or false, question: is the sky blue?"
        "\n\nAnswer format: true/false",
        f"the correct answer is {word}",
        word,
    )
    assert rows.boolq({"question": "is the sky blue", "answer": answer}) == expected
    assert rows.boolq({"question": "is the sky blue", "label": int(answer)}) == expected


@pytest.mark.parametrize("right", [{"answer": True}, {"label": 1}])
def test_boolqs_fields_are_those_of_the_harness_where_there_is_a_passage(right):
    shown = {"question": "is the sky blue", "passage": "It is."}
    assert rows.boolq(shown | right).fields == shown | {"label": 1}


def test_a_hidden_label_of_boolq_is_refused():
    with pytest.raises(ValueError, match="the answer is -1, neither true nor false"):
        rows.boolq({"question": "is the sky blue", "passage": "It is.", "label": -1})


def test_a_truth_written_as_text_is_not_silently_true():
    with contextlib.suppress(ValueError):  # a refusal is right as well
        assert rows.boolq({"question": "is the sky green", "answer": "false"}).answer == "false"


@pytest.mark.parametrize(
    ("row", "item"),
    [
        (
            {"original_text": "2 and 2?", "equation": "x=2+2", "ans": 4.0},
            Item("2 and 2?", "x=2+2 The answer is 4.0.", "4.0"),
        ),
        ({"Question": "2 and 2?", "Answer": 4}, Item("2 and 2?", "The answer is 4.", "4")),
    ],
)
def test_mawps_has_two_raw_forms(row, item):
    assert rows.mawps(row) == item


@pytest.mark.parametrize(
    ("question", "numbers", "asked"),
    [
        ("N_00 cups and N_01 more", "8.0 4.0", "8 cups and 4 more"),
        ("N_01 of N_00, N_01 again", "28.3 1000.0", "1000 of 28.3, 1000 again"),
        ("N_10 is not N_1", " ".join(map(str, range(11))), "10 is not 1"),
        ("one number: N_00", 7.0, "one number: 7"),
        ("2 and 2, N_A, IN_00", None, "2 and 2, N_A, IN_00"),
    ],
)
def test_numbers_of_mawps_stand_where_its_placeholders_are(question, numbers, asked):
    row = {"Question": question, "Numbers": numbers, "Equation": "N_00 + N_01", "Answer": 12.0}
    assert rows.mawps(row) == Item(asked, "The answer is 12.", "12")
    assert rows.asked(row).instruction == asked


@pytest.mark.parametrize("row", [{"Numbers": "1.0"}, {"Numbers": ""}, {}])
def test_a_placeholder_that_has_no_number_is_refused(row):
    with pytest.raises(ValueError, match="N_01"):
        rows.mawps({"Question": "N_01 cups", "Answer": 1.0, **row})


@pytest.mark.parametrize(
    "row",
    [
        {"Body": "He has 5", "sQuestion": "How many?", "lSolutions": 5.0},
        {"Body": "He has 5.", "Question": "How many?", "Answer": "5.0"},
    ],
)
def test_svamp_has_two_raw_forms(row):
    assert rows.svamp(row) == Item("He has 5. How many?", "The answer is 5.0.", "5.0")


@pytest.mark.parametrize(
    "form", [rows.instruction, rows.gsm8k, rows.aqua, rows.boolq, rows.mawps, rows.svamp, rows.sst2]
)
def test_a_missing_column_is_a_key_error(form):
    with pytest.raises(KeyError):
        form({"text": "unlabelled"})


@pytest.mark.parametrize(
    "row",
    [
        {"sentence": "a good film ", "label": 1, "idx": 7},
        {"sentence": "a good film", "label": "1"},
        {"0": "a good film", "1": "1"},
    ],
)
def test_sst2_has_a_form_on_the_hub_and_two_in_files(row):
    assert rows.sst2(row) == Item("a good film", "positive", "positive")


@pytest.mark.parametrize(("label", "name"), [(0, "negative"), (1, "positive"), ("negative", "negative")])
def test_imdbs_labels_are_numbers_or_names(label, name):
    assert rows.imdb({"text": "A film.", "label": label}) == Item("A film.", name, name)


@pytest.mark.parametrize("label", [-1, 2, "", "POS", True, 1.0, None])
def test_a_label_that_is_no_class_is_refused(label):
    with pytest.raises(ValueError, match=f"the label is {label!r}, none of 0, 1, negative, positive"):
        rows.imdb({"text": "A film.", "label": label})


@pytest.mark.parametrize(
    ("row", "form"),
    [
        ({"instruction": "i", "input": "x", "output": "o"}, rows.instruction),
        ({"question": "q", "options": ["A)1", "B)2"], "rationale": "r", "correct": "B"}, rows.aqua),
        ({"question": "is it so", "answer": True, "passage": "p"}, rows.boolq),
        ({"question": "q", "answer": "a\n#### 3"}, rows.gsm8k),
        ({"original_text": "o", "equation": "x=1", "ans": 1.0}, rows.mawps),
        ({"Question": "o", "Answer": 1.0}, rows.mawps),
        ({"sentence": "s", "label": 1}, rows.sst2),
        ({"0": "s", "1": "1"}, rows.sst2),
        ({"text": "t", "label": 1}, rows.imdb),
    ],
)
def test_what_is_asked_is_read_without_naming_the_form(row, form):
    assert rows.asked(row).instruction == form(row).instruction
    assert rows.asked(row).answer == ""


def test_a_row_that_asks_nothing_is_refused():
    with pytest.raises(KeyError, match="instruction, question"):
        rows.asked({"prompt": "p"})
    with pytest.raises(ValueError, match="text"):
        rows.asked({"text": None})


def test_the_input_of_a_users_own_file_goes_below_its_instruction():
    row = {"instruction": "Add.", "input": "7 and 8", "output": "15", "context": ""}
    own = {"instruction": "instruction", "completion": "output"}
    assert rows.columns(row, **own) == Item("Add.\n7 and 8", "15", "15")
    assert rows.columns(row | {"input": ""}, **own) == Item("Add.", "15", "15")
    assert rows.columns(row | {"instruction": " "}, **own).instruction == "7 and 8"
    other = {"instruction": "Sum up.", "context": "A story.", "output": "It ends."}
    assert rows.columns(other, input="context", **own).instruction == "Sum up.\nA story."
    assert rows.columns(row, ignore=["input"], **own).instruction == "Add."
    with pytest.raises(KeyError, match="context"):
        rows.columns({"instruction": "i", "output": "o"}, input="context", **own)
    with pytest.raises(rows.UnreadColumnsError, match="'input'"):
        rows.columns(row, input=None, **own)


def test_an_answer_of_its_own_is_what_is_compared():
    row = {"instruction": "i", "output": "It is 4.", "answer": 4}
    assert rows.columns(row, instruction="instruction", completion="output") == Item("i", "It is 4.", "4")


@pytest.mark.parametrize(
    ("form", "row", "word"),
    [
        (rows.aqua, AQUA | {"options": "A)3 B)4"}, "options"),
        (rows.aqua, AQUA | {"options": ["A)3", None]}, "options"),
        (rows.aqua, AQUA | {"rationale": 5.5j}, "rationale"),
        (rows.gsm8k, {"question": ["q"], "answer": "#### 1"}, "question"),
        (rows.boolq, {"question": "q", "answer": [True]}, "neither true nor false"),
        (rows.boolq, {"question": {"a": 1}, "answer": True}, "question"),
        (rows.svamp, {"Body": None, "Question": "q", "Answer": 1}, "Body"),
        (rows.mawps, {"original_text": "q", "equation": [], "ans": 1.0}, "equation"),
        (rows.sst2, {"sentence": 5.0 == 5, "label": 1}, "sentence"),
        (rows.imdb, {"text": "t", "label": ["positive"]}, "label"),
        (rows.instruction, {"instruction": "i", "output": None}, "output"),
    ],
)
def test_a_wrong_type_is_a_value_error_that_names_its_column(form, row, word):
    with pytest.raises(ValueError, match=word):
        form(row)


@pytest.mark.parametrize(("said", "word"), [("True", "true"), (" false", "false"), ("1", "true"), (0.0, "false")])
def test_a_truth_in_a_file_of_texts_is_read(said, word):
    assert rows.boolq({"question": "q", "answer": said}).answer == word
