"""Oracle: judgements by hand, and the task files' own functions, which must say the same."""

import pytest

from spectral_ft.data.files import read_rows
from spectral_ft.errors import ConfigError
from spectral_ft.evaluation.prepare import TEMPLATES
from spectral_ft.evaluation.rules import RULES, WORDS, Judgement, known_rules, rule_rows, rules_of, same_number
from spectral_ft.evaluation.tasks import scoring
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("extracted", "gold", "same"),
    [
        ("1.8333", "1.8333333333333335", True),
        ("1.83", "1.8333333333333335", False),
        ("-15", "-15.0", True),
        ("15", "-15.0", False),
        ("1200", "1,200", True),
        ("", "0", False),
        ("0.0009", "0", True),
        ("0.0011", "0", False),
        ("18", "She makes 9 * 2 = $18.\n#### 18", True),
        ("2", "She makes 9 * 2 = $18.\n#### 18", False),
    ],
)
def test_numbers_are_the_same_within_a_thousandth(extracted, gold, same):
    assert same_number(extracted, gold) is same


@pytest.mark.parametrize(
    ("rule", "response", "gold", "judgement"),
    [
        ("paper_number", "29.00 for 3 days", "29", Judgement("3", False)),
        ("strict_number", "The answer is $29.00 for 3 days", "29.0", Judgement("29.00", True)),
        ("paper_number", "none", "0", Judgement("", False)),
        ("paper_letter", "Because of this: C", "C", Judgement("B", False)),
        ("strict_letter", "Because of this: C", "C", Judgement("C", True)),
        ("paper_true_false", "untrue", "true", Judgement("true", True)),
        ("strict_true_false", "untrue", "true", Judgement("", False)),
        ("strict_option", "Option2.", "option2", Judgement("option2", True)),
    ],
)
def test_a_rule_reads_and_compares(rule, response, gold, judgement):
    assert RULES[rule](response, gold) == judgement


def test_each_kind_has_a_published_and_a_strict_rule():
    kinds = ("number", "letter", *WORDS)
    assert set(RULES) == {f"{how}_{kind}" for how in ("paper", "strict") for kind in kinds}
    for kind in kinds:
        assert list(rules_of(kind).items()) == [("paper", f"paper_{kind}"), ("strict", f"strict_{kind}")]
        assert (TEMPLATES / f"paper_{kind}.yaml").is_file()
    assert rules_of("") == rules_of("math") == {}


@pytest.mark.parametrize(
    ("kind", "response", "gold", "paper", "strict"),
    [
        ("number", "The answer is 7 of 9", "7", 0.0, 1.0),
        ("letter", "Because: C", "C", 0.0, 1.0),
        ("true_false", "untrue", "true", 1.0, 0.0),
        ("solution", "solution1 not solution2", "solution1", 1.0, 0.0),
        ("answer", "Answer5", "answer5", 0.0, 1.0),
        ("ending", "ending3", "ending3", 1.0, 1.0),
        ("option", "neither", "option1", 0.0, 0.0),
    ],
)
def test_the_functions_of_the_task_files_give_both(kind, response, gold, paper, strict):
    assert getattr(scoring, kind)({"gold": gold}, [response]) == {"paper": paper, "strict": strict}


def test_a_sample_has_a_row_for_each_rule():
    row = {"id": 3, "response": "The answer is 7 of 9", "gold": "7.0", "extractor": "none", "extracted": "x"}
    paper, strict = rule_rows(row | {"metrics": {"paper": 0.0, "strict": 1.0}}, rules_of("number"))
    assert paper == row | {"extractor": "paper", "extracted": "9", "metrics": {"exact_match": 0.0}}
    assert strict == row | {"extractor": "strict", "extracted": "7", "metrics": {"exact_match": 1.0}}


def test_the_page_says_what_the_rules_make_of_stored_guesses(shared_data):
    def right(folder, kind):
        rows = read_rows(shared_data / "llm_adapters" / folder / "test.json")
        judged = [
            [RULES[f"{how}_{kind}"](row["output"], row["answer"]).right for row in rows] for how in ("paper", "strict")
        ]
        return sum(judged[0]), sum(judged[1]), len(rows)

    aqua, gsm8k = right("AQuA", "letter"), right("gsm8k", "number")
    said = (
        f"counts {aqua[0]} of {aqua[2]} right on AQuA and the strict one {aqua[1]}; "
        f"on GSM8K {gsm8k[0]} and {gsm8k[1]} of {gsm8k[2]}."
    )
    assert said in " ".join((REPOSITORY / "docs" / "benchmarks.md").read_text().split())


def test_an_unknown_rule_is_told_the_nearest_names():
    with pytest.raises(ConfigError, match=r"strict_numbr is no rule of extraction: .* Did you mean strict_number"):
        known_rules(["paper_number", "strict_numbr"])
    with pytest.raises(ConfigError, match=r"zzz is no rule of extraction: there is paper_number, [a-z_, ]*\.$"):
        known_rules(["zzz"])
    with pytest.raises(ConfigError, match="no rule of extraction is named: there is paper_number"):
        known_rules([])
