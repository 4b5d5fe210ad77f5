"""What the task files beside this one call for each response."""

from typing import Any

from spectral_ft.evaluation.extraction import first_letter, first_truth, same_number, standalone_letter


def number(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """A number, as LLM-Adapters reads it.

    Args:
        doc: The item.
        results: The response, alone in a list.

    Returns:
        Rule name to 0 or 1.
    """
    return {"paper": float(same_number(results[0], doc["gold"]))}


def letter(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """A choice, by the published rule and by the strict one.

    Args:
        doc: The item.
        results: The response, alone in a list.

    Returns:
        Rule name to 0 or 1.
    """
    return {
        "paper": float(first_letter(results[0]) == doc["gold"]),
        "strict": float(standalone_letter(results[0]) == doc["gold"]),
    }


def true_false(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """True or false.

    Args:
        doc: The item.
        results: The response, alone in a list.

    Returns:
        Rule name to 0 or 1.
    """
    return {"paper": float(first_truth(results[0]) == doc["gold"])}
