"""Oracle: responses read by eye; `quirk` marks where the published rule and a reader differ."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.evaluation.extraction import first_letter, first_truth, last_number, same_number, standalone_letter
from tests.oracles import law


@pytest.mark.parametrize(
    ("response", "number"),
    [
        ("The answer is 7", 7),
        ("The answer is 7.", 7),
        ("3 + 4 = 7\n#### 7", 7),
        ("She pays $29.00.", 29),
        ("It costs $1,234,567.50 in all", 1_234_567.5),
        ("1,000 and then 2,000 metres", 2000),
        ("x = -15.0", -15),
        ("it falls to -3 degrees", -3),
        ("12 km, in 3 hours.", 3),
        ("half of it, 50%", 50),
        ("0", 0),
        ("no idea", None),
        ("", None),
        pytest.param("16-3", -3, id="quirk: a minus between numbers is a sign"),
        pytest.param("about .5", 5, id="quirk: a number needs a digit before its point"),
        pytest.param("1/2", 2, id="quirk: a fraction is two numbers"),
        pytest.param("1e3", 3, id="quirk: an exponent is a number"),
        pytest.param("1, 2,3", 23, id="quirk: every comma is a thousands separator"),
    ],
)
def test_the_last_number_is_the_answer(response, number):
    assert last_number(response) == number


@law
@given(st.integers(-(10**12), 10**12), st.text(alphabet="abc XYZ.,$%\n"))
def test_a_number_is_found_with_separators_and_before_any_words(number, words):
    assert last_number(f"first 3, then {number:,} {words}") == number


@law
@given(st.text())
def test_no_response_breaks_the_rules(response):
    assert last_number(response) is None or isinstance(last_number(response), float)
    assert first_letter(response) in {"", *"ABCDE"}
    assert standalone_letter(response) in {"", *"ABCDE"}
    assert first_truth(response) in {"", "true", "false"}


@pytest.mark.parametrize(
    ("response", "gold", "same"),
    [
        ("it is 1.8333", "1.8333333333333335", True),
        ("it is 1.83", "1.8333333333333335", False),
        ("-15", "-15.0", True),
        ("15", "-15.0", False),
        ("1,200", "1200", True),
        ("none", "0", False),
        ("0.0009", "0", True),
        ("0.0011", "0", False),
    ],
)
def test_numbers_are_the_same_within_a_thousandth(response, gold, same):
    assert same_number(response, gold) is same


@pytest.mark.parametrize(
    ("response", "published", "strict"),
    [
        ("C", "C", "C"),
        ("The answer is (D).", "D", "D"),
        ("D) 12, not A) 3", "D", "D"),
        ("the choice is E", "E", "E"),
        ("B.", "B", "B"),
        ("Because 3 is odd, C", "B", "C"),
        ("Answer: C", "A", "C"),
        ("Either way: D", "E", "D"),
        ("After A4 and 2B: E", "A", "E"),
        ("A's share is 3, so B", "A", "B"),
        ("the answer is c", "", ""),
        ("Five", "", ""),
        ("", "", ""),
    ],
)
def test_letters_inside_words_count_for_the_published_rule_only(response, published, strict):
    assert (first_letter(response), standalone_letter(response)) == (published, strict)


@pytest.mark.parametrize(
    ("response", "word"),
    [
        ("the correct answer is true", "true"),
        ("false, it is not true", "false"),
        ("it is untrue", "true"),
        ("True", ""),
        ("yes", ""),
    ],
)
def test_the_first_truth_in_small_letters_is_the_answer(response, word):
    assert first_truth(response) == word
