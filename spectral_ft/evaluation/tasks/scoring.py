"""What the task files beside this one call for each response: 0 or 1 by the published rule and by the strict one."""

from functools import partial
from typing import Any

from spectral_ft.evaluation.rules import RULES, rules_of


def judged(kind: str, doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Judge a response.

    Args:
        kind: Of answer that is looked for.
        doc: The item.
        results: The response, alone in a list.

    Returns:
        Metric, which is named for its rule, to 0 or 1.
    """
    return {metric: float(RULES[rule](results[0], doc["gold"]).right) for metric, rule in rules_of(kind).items()}


number = partial(judged, "number")
letter = partial(judged, "letter")
true_false = partial(judged, "true_false")
solution = partial(judged, "solution")
answer = partial(judged, "answer")
ending = partial(judged, "ending")
option = partial(judged, "option")
