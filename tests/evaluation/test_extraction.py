"""Oracles: responses read by eye, and the released scripts' regular expressions written down here once more.

Each response has the answer that the published rule gives by its definition and the one that the strict rule gives.
"""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.evaluation import extraction
from spectral_ft.evaluation.rules import WORDS
from tests.oracles import law

NUMBERS = [
    # response, published, strict
    ("The answer is 7", "7", "7"),
    ("The answer is 7.", "7.", "7"),
    ("3 + 4 = 7\n#### 7", "7", "7"),
    ("0", "0", "0"),
    # thousands separators
    ("#### 1,200", "1200", "1200"),
    ("It costs $1,234,567.50 in all", "1234567.50", "1234567.50"),
    ("1,000 and then 2,000 metres", "2000", "2000"),
    ("1, 2,3", "23", "3"),
    ("1,2345", "12345", "2345"),
    ("1,000,20", "100020", "20"),
    # currencies
    ("She pays $29.00.", "29.00", "29.00"),
    ("a loss of -$5", "5", "-5"),
    ("a loss of $-5", "-5", "-5"),
    ("between $5-$10", "10", "10"),
    ("£3.50 each", "3.50", "3.50"),
    # signs
    ("x = -15.0", "-15.0", "-15.0"),
    ("it falls to -3 degrees", "-3", "-3"),
    ("it is −3", "3", "-3"),
    ("(-3)", "-3", "-3"),
    ("16-3", "-3", "3"),
    ("16 -3", "-3", "3"),
    ("16 - 3", "3", "3"),
    ("(a)-4", "-4", "4"),
    ("5%-10%", "-10", "10"),
    ("the years 1990-2000", "-2000", "2000"),
    # units
    ("12 km, in 3 hours.", "3", "3"),
    ("12km", "12", "12"),
    ("half of it, 50%", "50", "50"),
    ("8 m2", "2", "8"),
    # forms of a number
    ("about .5", "5", ".5"),
    ("1e3 people", "3", "1e3"),
    ("2.5.", "2.5", "2.5"),
    # several numbers
    ("The answer is $29.00 per person for 3 days", "3", "29.00"),
    ("the answer is 5, no, the answer is 6 for 2", "2", "6"),
    ("The answer is 3 + 4 = 7 of 9", "9", "7"),
    ("The answer is:\n7\nThere are 3 left", "3", "7"),
    ("#### 72\nThere are 3 left", "3", "72"),
    ("Answer: 8 apples. He had 3", "3", "8"),
    ("I hope the answer is clear. I get 8", "8", "8"),
    ("The answer is 4. The answer is clear. Or 8?", "8", "4"),
    # the next task, which is no part of the response
    ("It is 7\n### Response:\n9", "7", "7"),
    ("It is 7\n\n### Instruction:\nAdd 2 and 9", "9", "7"),
    # quirks that both have
    ("1/2", "2", "2"),
    ("twelve", "", ""),
    ("no idea", "", ""),
    ("", "", ""),
]
LETTERS = [
    ("C", "C", "C"),
    ("The answer is (D).", "D", "D"),
    ("D) 12, not A) 3", "D", "D"),
    ("the choice is E", "E", "E"),
    ("B.", "B", "B"),
    ("#### B", "B", "B"),
    ("Because 3 is odd, C", "B", "C"),
    ("Answer: C", "A", "C"),
    ("Either way: D", "E", "D"),
    ("After A4 and 2B: E", "A", "E"),
    ("A's share is 3, so B", "A", "B"),
    ("A car needs 3 hours. The answer is (C).", "A", "C"),
    ("The answer is A or rather: the answer is B", "A", "B"),
    ("The answer is clear. So D", "D", "D"),
    ("It is C\n### Response:\nA", "C", "C"),
    ("12\n### Instruction:\nA car needs", "A", ""),
    ("A car needs 3 hours, so C", "A", "A"),
    ("the answer is c", "", ""),
    ("Five", "", ""),
    ("", "", ""),
]
CHOICES = [
    ("true_false", "the correct answer is true", "true", "true"),
    ("true_false", "the correct answer is false.", "false", "false"),
    ("true_false", "false, it is not true", "false", ""),
    ("true_false", "true. I say true", "true", "true"),
    ("true_false", "it is untrue", "true", ""),
    ("true_false", "that is falsehood", "false", ""),
    ("true_false", "True", "", "true"),
    ("true_false", "true\n### Instruction:\nIs it false?", "true", "true"),
    ("true_false", "yes", "", ""),
    ("true_false", "", "", ""),
    ("solution", "the correct answer is solution2", "solution2", "solution2"),
    ("solution", "Solution1", "", "solution1"),
    ("solution", "solution 1", "", ""),
    ("answer", "the correct answer is answer5", "answer5", "answer5"),
    ("answer", "answer12", "answer1", ""),
    ("answer", "answer6", "", ""),
    ("answer", "answer3, as answer1 is wrong", "answer3", ""),
    ("ending", "the correct answer is ending4", "ending4", "ending4"),
    ("ending", "ending5", "", ""),
    ("ending", "ending0 or ending2", "ending2", "ending2"),
    ("option", "the correct answer is option1", "option1", "option1"),
    ("option", "option1/option2", "option1", ""),
    ("option", "option3", "", ""),
]
REFERENCES = {
    "true_false": r"true|false",
    "solution": r"solution1|solution2",
    "answer": r"answer1|answer2|answer3|answer4|answer5",
    "ending": r"ending1|ending2|ending3|ending4",
    "option": r"option1|option2",
}
"""Of `commonsense_evaluate.py`."""


def reference(pattern, response, *, last=False, without=""):
    """What a released script reads: all matches in the text between the first two marks, the first or the last one."""
    text = f"the prompt ### Response:{response}".split("### Response:")[1].strip().replace(without, "")
    found = re.findall(pattern, text)
    return found[-1 if last else 0] if found else ""


def reference_number(response):
    return reference(r"-?\d+\.?\d*", response, last=True, without=",")


def published_word(kind, response):
    return extraction.published_word(response, WORDS[kind])


def strict_word(kind, response):
    return extraction.strict_word(response, WORDS[kind])


@pytest.mark.parametrize(("response", "published", "strict"), NUMBERS)
def test_numbers(response, published, strict):
    assert extraction.published_number(response) == published == reference_number(response)
    assert extraction.strict_number(response) == strict


@pytest.mark.parametrize(("response", "published", "strict"), LETTERS)
def test_letters(response, published, strict):
    assert extraction.published_letter(response) == published == reference("A|B|C|D|E", response)
    assert extraction.strict_letter(response) == strict


@pytest.mark.parametrize(("kind", "response", "published", "strict"), CHOICES)
def test_words(kind, response, published, strict):
    assert published_word(kind, response) == published == reference(REFERENCES[kind], response)
    assert strict_word(kind, response) == strict


def test_every_kind_of_word_is_in_the_table():
    assert {kind for kind, *_ in CHOICES} == set(REFERENCES) == set(WORDS)


PIECES = st.sampled_from([
    "answer", "answer is ", "#### ", "true", "false", "ending2", "option1", "### Response:", "\n", " ", "-", "$", ",",
    ".", "=", "1,000", "3.5", "7", "A", "(B)", "e", "because",
])  # fmt: skip


@law
@given(st.one_of(st.text(), st.lists(PIECES, max_size=12).map("".join)))
def test_the_published_rules_are_the_released_scripts(response):
    assert extraction.published_number(response) == reference_number(response)
    assert extraction.published_letter(response) == reference("A|B|C|D|E", response)
    for kind, pattern in REFERENCES.items():
        assert published_word(kind, response) == reference(pattern, response)


@law
@given(st.one_of(st.text(), st.lists(PIECES, max_size=12).map("".join)))
def test_no_response_breaks_the_strict_rules(response):
    number = extraction.strict_number(response)
    assert not number or isinstance(float(number), float)
    assert extraction.strict_letter(response) in {"", *"ABCDE"}
    for kind, words in WORDS.items():
        assert strict_word(kind, response) in {"", *words}


@law
@given(st.integers(-(10**12), 10**12), st.text(alphabet="abc XYZ.$%\n"))
def test_a_number_is_found_with_separators_and_before_any_words(number, words):
    response = f"first 3, then {number:,} {words}"
    assert float(extraction.published_number(response)) == float(extraction.strict_number(response)) == number


@law
@given(
    st.integers(-(10**6), 10**6), st.integers(0, 99), st.sampled_from(["The answer is {}.", "#### {}", "answer: {}"])
)
def test_an_announced_number_wins_over_what_follows(number, other, said):
    response = f"{said.format(f'{number:,}')}\nThere are {other} more."
    assert float(extraction.strict_number(response)) == number
    assert float(extraction.published_number(response)) == other
