"""The rules of extraction by name, each a judgement of one response.

A rule is named for how strict it is and for what it looks for: `paper_number`, `strict_number`. `paper_*` are the
published ones (LLM-Adapters, arXiv:2304.01933), `strict_*` stand beside them; `extraction.py` defines both.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from spectral_ft.errors import ConfigError
from spectral_ft.evaluation.extraction import (
    published_letter,
    published_number,
    published_word,
    strict_letter,
    strict_number,
    strict_word,
)
from spectral_ft.spelling import nearest

TOLERANCE = 1e-3
"""Numbers closer than this are equal (the source's)."""


class Judgement(NamedTuple):
    """What a rule makes of a response."""

    extracted: str
    """The answer; empty where there is none."""
    right: bool


Rule = Callable[[str, str], Judgement]
"""Response and right answer to a judgement."""

WORDS: Mapping[str, tuple[str, ...]] = {
    "true_false": ("true", "false"),
    "solution": ("solution1", "solution2"),
    "answer": ("answer1", "answer2", "answer3", "answer4", "answer5"),
    "ending": ("ending1", "ending2", "ending3", "ending4"),
    "option": ("option1", "option2"),
}
"""What may be answered, by what a rule looks for."""


def same_number(extracted: str, gold: str) -> bool:
    """Whether two numbers are equal.

    Args:
        extracted: A number as text, or nothing.
        gold: A number as text, or a worked answer that ends in `#### N`.

    Returns:
        True within 1e-3.
    """
    right = float(gold.rpartition("####")[2].replace(",", ""))
    return bool(extracted) and abs(float(extracted) - right) <= TOLERANCE


def same_text(extracted: str, gold: str) -> bool:
    """Whether two answers are equal.

    Args:
        extracted: A letter or a word, or nothing.
        gold: The right one.

    Returns:
        True where they are the same.
    """
    return extracted == gold


def judge(response: str, gold: str, *, extract: Callable[[str], str], same: Callable[[str, str], bool]) -> Judgement:
    """Read an answer and compare it.

    Args:
        response: What the model wrote.
        gold: The right answer.
        extract: Response to answer.
        same: Whether answer and right answer are equal.

    Returns:
        The judgement.
    """
    extracted = extract(response)
    return Judgement(extracted, same(extracted, gold))


RULES: Mapping[str, Rule] = {
    "paper_number": partial(judge, extract=published_number, same=same_number),
    "strict_number": partial(judge, extract=strict_number, same=same_number),
    "paper_letter": partial(judge, extract=published_letter, same=same_text),
    "strict_letter": partial(judge, extract=strict_letter, same=same_text),
    **{
        f"{name}_{kind}": partial(judge, extract=partial(extract, words=words), same=same_text)
        for kind, words in WORDS.items()
        for name, extract in (("paper", published_word), ("strict", strict_word))
    },
}
"""Every rule by its name."""


def rules_of(kind: str) -> dict[str, str]:
    """The rules that look for one kind of answer.

    Args:
        kind: `number`, `letter` or one of `WORDS`.

    Returns:
        Metric of the task file (`paper`, `strict`) to name of the rule, the published one first; empty for any other
        kind.
    """
    named = [name.partition("_") for name in RULES]
    return {metric: f"{metric}_{kind}" for metric, _, looks_for in named if looks_for == kind}


def known_rules(names: Iterable[str]) -> dict[str, Rule]:
    """Rules by name.

    Args:
        names: Of the rules.

    Returns:
        The same names with their rules.

    Raises:
        ConfigError: If there is no such rule, or none is named.
    """
    asked = list(names)
    if not asked:
        raise ConfigError(f"no rule of extraction is named: there is {', '.join(RULES)}.")
    for name in asked:
        if name not in RULES:
            raise ConfigError(f"{name} is no rule of extraction: there is {', '.join(RULES)}.{nearest(name, RULES)}")
    return {name: RULES[name] for name in asked}


def rule_rows(row: Mapping[str, Any], rules: Mapping[str, str]) -> list[dict[str, Any]]:
    """A sample row for each rule, with the answer that the rule reads.

    Args:
        row: With response and gold.
        rules: Name that the score has as its extractor, to name of the rule.

    Returns:
        Copies of the row; `extractor`, `extracted` and `metrics` (`exact_match`, 0 or 1) are the rule's.
    """
    judged = {name: RULES[rule](row["response"], row["gold"]) for name, rule in rules.items()}
    return [
        {**row, "extractor": name, "extracted": found.extracted, "metrics": {"exact_match": float(found.right)}}
        for name, found in judged.items()
    ]
