"""Oracles: all pairs compared one by one, planted duplicates, and counts of the public files found by other means.

The counts of `math_data.json` are those that its description states.
"""

import json
import random
import re
from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_ft.data.overlap import NEAR, find_overlap, fold
from spectral_ft.data.wordmath import GAINS, LOSSES, NAMES, draw_problems
from spectral_ft.types import TaskOverlap


def matches(training, test):
    return find_overlap(training, {"t": test})["t"]


def pairs(training, test, kind):
    return {
        (row, item)
        for match in matches(training, test)
        if match.kind == kind
        for row, item in product(match.training, match.test)
    }


def counts(training, test):
    return TaskOverlap("t", len(test), matches(training, test)).counts


# ---- exact


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Mia has 3 lamps.", "  mia HAS\n3 lamps ?"),
        ("It is 'so' - isn't it?", "It is so isn t it"),
        ("pay $5 (now)", "Pay 5 now!"),
        ("12 + 3 = x", "12+3=x"),
        ("Straße", "STRASSE"),
        ("Wie groß ist 日本?", "wie gross ist 日本"),
    ],
)
def test_case_space_and_punctuation_do_not_matter(one, other):
    (match,) = matches([one], [other])
    assert (match.kind, match.similarity, match.training, match.test) == ("exact", 1.0, (0,), (0,))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 12 + 3?", "What is 12 - 3?"),
        ("What is 12 * 3?", "What is 12 / 3?"),
        ("What is 12?", "What is 13?"),
        ("is it 1.5", "is it 15"),
        ("5% of 7", "5 of 7"),
        ("?!", "..."),
        ("", ""),
    ],
)
def test_letters_digits_and_signs_do(one, other):
    assert matches([one], [other]) == ()


@given(st.lists(st.text("aB1 .+-", max_size=6), max_size=12), st.lists(st.text("aB1 .+-", max_size=6), max_size=12))
def test_exact_matches_are_all_pairs_of_equal_foldings(training, test):
    expected = {(i, j) for (i, a), (j, b) in product(enumerate(training), enumerate(test)) if fold(a) == fold(b) != ""}
    assert pairs(training, test, "exact") == expected


@given(st.text())
def test_folding_twice_changes_nothing_more(text):
    assert fold(fold(text)) == fold(text)


def test_a_text_is_one_match_wherever_it_stands():
    (match,) = matches(["x", "Do it.", "do it"], ["y", "y", "do it", "Do it!"])
    assert (match.training, match.test) == ((1, 2), (2, 3))


# ---- near

WORDS = ("apple", "bread", "cup", "dish", "egg", "fork", "grape", "honey", "ice", "jam", "kettle", "lemon")


def brute_force(training, test):
    """All pairs of lower-case texts, by the rule as docs/leakage.md states it."""

    def parts(text):
        numbers = sorted(word for word in text.split() if word.isdigit())
        return numbers, {word for word in text.split() if not word.isdigit()}

    distinct = set(test)
    frequency = Counter(word for text in distinct for word in parts(text)[1])
    form = {word for word, count in frequency.items() if 2 * count > len(distinct) >= 10}
    found = set()
    for (i, a), (j, b) in product(enumerate(training), enumerate(test)):
        (numbers, one), (others, other) = parts(a), parts(b)
        one, other = one - form, other - form
        enough = all(len(side) >= 2 and len(side) + len(numbers) >= 4 for side in (one, other))
        if a != b and numbers == others and enough and len(one & other) >= NEAR * len(one | other):
            found.add((i, j))
    return found


TEXTS = st.lists(  # on either side of the ten items from which on a form is told
    st.lists(st.sampled_from([*WORDS, "3", "40"]), min_size=1, max_size=14).map(" ".join), min_size=1, max_size=15
)


@settings(max_examples=150, derandomize=True)  # by chance one pair in 20,000 is missed
@given(TEXTS, TEXTS, st.randoms(use_true_random=False))
def test_near_matches_are_all_pairs_that_are_near(training, test, rng):
    shuffled = [" ".join(rng.sample(text.split(), len(text.split()))) for text in test]
    training = [*training, *shuffled]
    assert pairs(training, test, "near") == brute_force(training, test)


GROWN = "Tom picks 12 ripe pears from the old tree and gives 5 of them to Ann. How many pears does he keep?"
OTHERS = ["The lake is deep, and no boat of 9 sails on it.", "Why does Ann say that old bread of 5 days is good?"]


@pytest.mark.parametrize(
    "text",
    [
        "Mia picks 12 ripe pears from the old tree and gives 5 of them to Zoe. How many pears does she keep?",
        "How many pears does Tom keep? He picks 12 ripe pears from the old tree and gives Ann 5 of them.",
        "How many pears does Omar keep? After he gives 5 of them to Lena, who picks 12 ripe pears from the old tree.",
        "Tom picks 12.0 ripe pears from the old tree and gives 5 of them to Ann! how many of the pears does he keep",
    ],
    ids=["names", "order", "both and a few words", "writing"],
)
def test_names_and_order_are_paraphrase(text):
    (match,) = matches([*OTHERS, text], [GROWN, "Is the sea blue?", "Where do the 3 roads end now?"])
    assert (match.kind, match.training, match.test) == ("near", (2,), (0,)) and match.similarity >= NEAR


@pytest.mark.parametrize(
    "text",
    [
        GROWN.replace("12", "13"),
        GROWN.replace("5 of", "5 or 6 of"),
        "Tom had 12 coins and found 5 in the street. How many coins are now in his pocket?",
    ],
    ids=["another number", "one more number", "another problem"],
)
def test_numbers_are_content(text):
    assert matches([text], [GROWN, *OTHERS]) == ()


def test_a_thousand_is_written_in_two_ways():
    town = "A town of {} people builds {} new houses this year, how many each?"
    one, other = town.format("1,000", "2.50"), town.format("1000", "2.5")
    assert pairs([one], [other, *OTHERS], "near") == {(0, 0)}


def test_a_name_is_content_where_numbers_are_not():
    asked = ["is Paris the capital of a country", "why is lead heavy", "does it rain on the moon"]
    assert matches(["is Rome the capital of a country"], asked) == ()
    assert pairs(["the capital of a country is Paris"], asked, "near") == {(0, 0)}


def test_signs_are_content():
    asked = ["Add it all up now: 12 + 34 = x", "Leave this out", "And that"]
    assert matches(["Add it all up now: 12 - 34 = x"], asked) == ()


def test_the_form_in_which_all_is_asked_is_no_likeness():
    form = "Please answer the following question with true or false, question: {}? Answer format: true/false"
    asked = ["can cats swim in cold water", "do stones float on a lake", "has iron any smell at all"]
    other = ["can birds walk over hot sand", "do stones float on a pond"]
    many = [*asked, *(f"are there {word} trees" for word in WORDS[:7])]
    training, test = ([form.format(text) for text in some] for some in (other, many))
    assert matches(training, test) == ()
    assert pairs(training, test[:3], "near") == {(1, 1)}  # so few do not tell a form


def test_a_script_without_case_has_no_names():
    one = "في الحديقة 12 شجرة قديمة و 5 زهور حمراء كبيرة"
    other = "و 5 زهور حمراء كبيرة في الحديقة 12 شجرة قديمة"
    assert pairs([other], [one], "near") == {(0, 0)}
    assert matches(["في المدينة 12 سيارة جديدة و 5 بيوت بيضاء صغيرة"], [one]) == ()


def test_one_item_is_enough():
    assert pairs([*OTHERS, GROWN.replace("Tom", "Omar")], [GROWN], "near") == {(2, 0)}


# ---- generated problems


def paraphrase(question, rng):
    """Another name, and the two changes in the other order."""
    name = next(name for name in NAMES if name in question)
    other = rng.choice([each for each in NAMES if each != name])
    verbs = "|".join((*GAINS, *LOSSES))
    changed = re.sub(rf"({verbs}) (\d+)(.*?)({verbs}) (\d+)", r"\4 \5\3\1 \2", question.replace(name, other))
    assert changed != question
    return changed


@pytest.mark.parametrize("seed", range(3))
def test_generated_problems_with_other_operands_are_no_leaks_and_planted_ones_are_found(seed):
    rng = random.Random(seed)
    training = [p.question for p in draw_problems(4000, split="train", seed=seed)]
    test = [p.question for p in draw_problems(300, split="test", seed=seed + 1)]
    assert matches(training, test) == ()
    planted = [paraphrase(question, rng) for question in test]
    found = pairs([*training, *planted], test, "near")
    right = {(4000 + i, i) for i in range(300)}
    print(f"recall {len(found & right) / 300:.3f}, precision {len(found & right) / len(found):.3f}")
    assert len(found & right) >= 0.99 * 300
    assert len(found & right) >= 0.99 * len(found)


# ---- public files


def texts(path, *columns):
    text = path.read_text()
    rows = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
    return [next(row[column] for column in columns if column in row) for row in rows]


TASKS = {"gsm8k": 1055, "SVAMP": 800, "AQuA": 203, "mawps": 131}
NEARLY = {"gsm8k": 0, "SVAMP": 1, "AQuA": 0, "mawps": 5}


@pytest.fixture
def copies(shared_data):
    return shared_data / "llm_adapters"


def test_math_data_holds_the_test_items_that_it_is_known_for(copies):
    training = texts(copies / "math_data.json", "instruction")
    tests = {name: texts(copies / name / "test.json", "instruction") for name in TASKS}
    found = [TaskOverlap(name, None, each) for name, each in find_overlap(training, tests).items()]
    assert {task.task: task.counts["exact_items"] for task in found} == TASKS
    assert {task.task: task.counts["near_items"] for task in found} == NEARLY
    concerned = [
        {row for task in found for match in task.matches if match.kind in kinds for row in match.training}
        for kinds in (("exact",), ("exact", "near"))
    ]
    assert (len(training), *map(len, concerned)) == (3260, 2207, 2232)
    # The number of rows that is quoted for this file is of a folding that leaves punctuation.
    rows = {" ".join(text.lower().split()) for text in training}
    found = {name: sum(" ".join(text.lower().split()) in rows for text in items) for name, items in tests.items()}
    assert found == TASKS | {"mawps": 54} and sum(found.values()) == 2112


def test_mawps_trains_on_some_of_its_test_items(copies):
    training, test = (texts(copies / "mawps" / f"{name}set.json", "original_text") for name in ("train", "test"))
    assert counts(training, test) == {"exact_items": 28, "near_items": 30, "exact_rows": 27, "near_rows": 31}
    assert counts(training, texts(copies / "mawps" / "test.json", "instruction"))["exact_items"] == 28


def test_gsm8k_keeps_its_splits_apart(shared_data):
    training, test = (texts(shared_data / "gsm8k" / f"{name}.jsonl", "question") for name in ("train", "test"))
    assert matches(training, test) == ()


def renamed(text, rng):
    """Other names for what is capitalised inside of a sentence, the other gender, and sentences in another order."""
    for name in set(re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", text)):
        text = re.sub(rf"\b{name}\b", rng.choice(["Quirin", "Ysolde", "Xaver", "Wilma"]), text)
    other = {"he": "she", "He": "She", "she": "he", "She": "He", "his": "her", "His": "Her", "her": "his", "Her": "His"}
    text = re.sub(r"\b([Ss]?[Hh]e|[Hh]is|[Hh]er)\b", lambda found: other[found.group()], text)
    sentences = re.split(r"(?<=[.?!])\s+", text.strip())
    return " ".join(rng.sample(sentences, len(sentences)))


@pytest.mark.parametrize(("name", "least"), [("gsm8k", 0.99), ("SVAMP", 0.98), ("mawps", 0.99)])
def test_real_problems_are_found_under_other_names_and_in_another_order(name, least, shared_data, copies):
    training = texts(shared_data / "gsm8k" / "train.jsonl", "question")
    test = texts(copies / name / "test.json", "instruction")
    assert pairs(training, test, "near") == set()
    rng = random.Random(0)
    planted = [*training, *(renamed(text, rng) for text in test)]
    found = pairs(planted, test, "near") | pairs(planted, test, "exact")
    right = {item for row, item in found if row == len(training) + item}
    problems = {item for item, text in enumerate(test) if len(re.findall(r"\d[\d.,]*", text)) >= 2}
    print(f"{name}: recall {len(right) / len(test):.3f}, of problems {len(right & problems) / len(problems):.3f}")
    assert len(right & problems) >= least * len(problems)
    # What else is found are problems that the test set itself asks twice, in other words.
    assert all(row >= len(training) for row, _ in found)
