"""What the task files beside this one call for each response: 0 or 1 by the published rule and by the strict one."""

from typing import Any

from spectral_ft.evaluation.rules import RULES, rules_of


def number(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """A number.

    Args:
        doc: The item.
        results: The response, alone in a list.

    Returns:
        Rule name to 0 or 1.
    """
    return _judged("number", doc, results)


def letter(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """A letter from A to E.

    Args:
        doc: The item.
        results: The response, alone in a list.

    Returns:
        Rule name to 0 or 1.
    """
    return _judged("letter", doc, results)


def true_false(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """True or false.

    Args:
        doc: The item.
        results: The response, alone in a list.

    Returns:
        Rule name to 0 or 1.
    """
    return _judged("true_false", doc, results)


def solution(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """One of two solutions.

    Args:
        doc: The item.
        results: The response, alone in a list.

    Returns:
        Rule name to 0 or 1.
    """
    return _judged("solution", doc, results)


def answer(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """One of up to five answers.

    Args:
        doc: The item.
        results: The response, alone in a list.

    Returns:
        Rule name to 0 or 1.
    """
    return _judged("answer", doc, results)


def ending(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """One of four endings.

    Args:
        doc: The item.
        results: The response, alone in a list.

    Returns:
        Rule name to 0 or 1.
    """
    return _judged("ending", doc, results)


def option(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """One of two words for a blank.

    Args:
        doc: The item.
        results: The response, alone in a list.

    Returns:
        Rule name to 0 or 1.
    """
    return _judged("option", doc, results)


def _judged(kind: str, doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    return {metric: float(RULES[rule](results[0], doc["gold"]).right) for metric, rule in rules_of(kind).items()}
