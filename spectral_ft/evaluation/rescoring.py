"""Score stored responses again, by other rules, without generating anything.

What a rule of extraction reads can move a table more than a method does, so the same responses are worth reading by
several.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spectral_ft.errors import DataError
from spectral_ft.evaluation.classification import standard_error
from spectral_ft.evaluation.records import TaskScores
from spectral_ft.evaluation.rules import known_rules, rule_rows
from spectral_ft.types import BenchmarkScore, Stage


def rescore(
    samples: Sequence[Mapping[str, Any]], rules: Iterable[str], *, stored: Sequence[BenchmarkScore]
) -> TaskScores:
    """Read the answers in stored responses by other rules.

    Args:
        samples: Rows of `samples/TASK.jsonl`, of one stage or both; where an item has several (one a rule), the first
            is read.
        rules: Names of `rules.RULES`, the leading one first.
        stored: Scores of this task in `scores.json`: they tell what the rows do not (examples in the prompt, protocol,
            version).

    Returns:
        A score for each stage and rule, base before tuned, the rule as its extractor; and a row for each item and rule.

    Raises:
        ConfigError: If there is no such rule.
        DataError: If a row has no response, a rule cannot compare with its right answer, there are no rows, or a stage
            has no stored score.
    """
    asked = {name: name for name in known_rules(rules)}
    if not samples:
        raise DataError("there are no stored samples to score again.")
    scored: dict[Stage, BenchmarkScore] = {}
    for score in stored:
        scored.setdefault(score.stage, score)
    items: dict[tuple[Stage, Any], Mapping[str, Any]] = {}
    for row in samples:
        items.setdefault((row["stage"], row["id"]), row)
    scores, rows = [], []
    for stage in sorted({stage for stage, _ in items}):
        if stage not in scored:
            raise DataError(f"the samples hold items of the {stage} model, but no score of it is stored beside them.")
        judged = [_judged(row, asked, scored[stage].task) for (own, _), row in items.items() if own == stage]
        rows += [one for each in judged for one in each]
        for place, name in enumerate(asked):
            right = [each[place]["metrics"]["exact_match"] for each in judged]
            scores.append(_score(scored[stage], name, right))
    return TaskScores(tuple(scores), rows)


def _judged(row: Mapping[str, Any], rules: Mapping[str, str], task: str) -> list[dict[str, Any]]:
    if row["response"] is None or "logits" in row:  # a classifier's response is the name of its class
        how = "logits" if "logits" in row else "log-likelihoods"
        raise DataError(
            f"samples of {task}, item {row['id']}: it was scored by {how} and has no written response, so there is no "
            "answer to read again."
        )
    try:
        return rule_rows(row, rules)
    except ValueError as error:
        raise DataError(
            f"samples of {task}, item {row['id']}: the right answer {row['gold']!r} is no number, so "
            f"{', '.join(rules)} cannot all be used; name rules for what this task answers."
        ) from error


def _score(stored: BenchmarkScore, rule: str, right: Sequence[float]) -> BenchmarkScore:
    return BenchmarkScore(
        task=stored.task,
        metric="exact_match",
        value=sum(right) / len(right),
        stderr=standard_error(right),
        n=len(right),
        fewshot=stored.fewshot,
        extractor=rule,
        protocol=stored.protocol,
        stage=stored.stage,
        harness_version=stored.harness_version,
    )
