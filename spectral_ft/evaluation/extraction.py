"""The answer in a response: the published rules, and stricter ones beside them.

Source: LLM-Adapters, arXiv:2304.01933, `evaluate.py` and `commonsense_evaluate.py`.
"""

import re

TOLERANCE = 1e-3
"""Numbers closer than this are equal (the source's)."""


def last_number(response: str) -> float | None:
    """The last number, thousands separators removed.

    Args:
        response: What the model wrote.

    Returns:
        The number, or None where there is none.
    """
    found = re.findall(r"-?\d+\.?\d*", response.replace(",", ""))
    return float(found[-1]) if found else None


def same_number(response: str, gold: str) -> bool:
    """Whether the last number is the right one.

    Args:
        response: What the model wrote.
        gold: A number as text.

    Returns:
        True within 1e-3.
    """
    number = last_number(response)
    return number is not None and abs(number - float(gold)) <= TOLERANCE


def first_letter(response: str) -> str:
    """The first capital A to E anywhere, as published: "Because" answers B.

    Args:
        response: What the model wrote.

    Returns:
        The letter, or an empty string.
    """
    found = re.search(r"[A-E]", response)
    return found[0] if found else ""


def standalone_letter(response: str) -> str:
    """The first A to E that is a word of its own; the strict rule beside the published one.

    Args:
        response: What the model wrote.

    Returns:
        The letter, or an empty string.
    """
    found = re.search(r"(?<![A-Za-z0-9'])[A-E](?![A-Za-z0-9'])", response)
    return found[0] if found else ""


def first_truth(response: str) -> str:
    """The first `true` or `false`.

    Args:
        response: What the model wrote.

    Returns:
        The word, or an empty string.
    """
    found = re.search(r"true|false", response)
    return found[0] if found else ""
