"""The loss on what a model should have written: it still tells two models apart where both answer nothing right.

    loss of an item = -log p(gold completion | prompt) / tokens of the completion,    perplexity = exp(mean over items)

The mean is over items and not over tokens, so that the score is the mean of what is kept of each item and two runs
can be compared item by item.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from spectral_ft.evaluation.classification import standard_error
from spectral_ft.evaluation.records import TaskScores
from spectral_ft.evaluation.results import prompt_hash
from spectral_ft.types import BenchmarkScore

EXTRACTOR = "completion"
"""What its scores and samples have in the place of a rule."""
LARGEST_MEAN = math.log(sys.float_info.max)
"""In nats; of a larger mean there is no perplexity."""


Right = Callable[[dict[str, Any]], int]
"""Item, as the harness has it, to the place of its right choice."""


class Gold(NamedTuple):
    """What should have been written."""

    item: int
    prompt: str
    completion: str


def golds_of(samples: Sequence[dict[str, Any]], *, delimiter: str, right: Right | None = None) -> list[Gold]:
    """What should have been written in answer to each item.

    Args:
        samples: Of the harness; one an item and filter.
        delimiter: Between prompt and target, where the task says nothing of completions.
        right: Item to the place of its right choice, where the choices are prompts with one completion and the target
            is this; None where the target says it.

    Returns:
        Prompts with gold completions; of several choices the right one.
    """
    return [_gold(sample, delimiter, right) for sample in samples if sample["filter"] == samples[0]["filter"]]


def _gold(sample: dict[str, Any], delimiter: str, right: Right | None) -> Gold:
    if len(sample["arguments"]) > 1:
        place = _choice(sample["target"]) if right is None else right(sample["doc"])
        prompt, completion = map(str, sample["arguments"][place][:2])
        return Gold(sample["doc_id"], prompt, completion)
    prompt = str(sample["arguments"][0][0])
    completion = str(sample["doc"].get("completion") or f"{delimiter}{sample['target']}")
    apart = prompt[-1:].isspace() or completion[:1].isspace()
    return Gold(sample["doc_id"], prompt, completion if apart else f" {completion}")


def _choice(target: Any) -> int:
    return int(target[0] if isinstance(target, list) else target)  # some tasks allow several


def gold_losses(lm: Any, golds: Sequence[Gold]) -> dict[int, float]:
    """Mean nats a token of each completion.

    Args:
        lm: The harness's model; what it scored before is not scored again.
        golds: What should have been written.

    Returns:
        Item to loss; those are left out that do not fit, or have no token.
    """
    from lm_eval.api.instance import Instance

    requests, lengths = [], []
    for gold in golds:
        prompt, completion = lm._encode_pair(gold.prompt, gold.completion)
        if completion and lm.fits(len(prompt), len(completion)):
            requests.append(Instance("loglikelihood", {}, (gold.prompt, gold.completion), gold.item))
            lengths.append(len(completion))
    answers = lm.loglikelihood(requests) if requests else []
    return {
        request.idx: -float(total) / length
        for request, (total, _), length in zip(requests, answers, lengths, strict=True)
    }


def completion_scores(losses: Mapping[int, float], golds: Sequence[Gold], leading: BenchmarkScore) -> TaskScores:
    """Loss and perplexity of a task, and every item's.

    Args:
        losses: Item to loss, at least one.
        golds: What should have been written.
        leading: A score of the same task and stage.

    Returns:
        Scores and samples; no perplexity where it is larger than any number (709 nats).
    """
    values = list(losses.values())
    mean = math.fsum(values) / len(values)
    loss = replace(
        leading, metric="gold_loss", value=mean, stderr=standard_error(values), n=len(values), extractor=EXTRACTOR
    )
    samples = [
        {
            "stage": leading.stage,
            "id": gold.item,
            "prompt_hash": prompt_hash(gold.prompt),
            "response": None,
            "ended": None,
            "log_likelihoods": None,
            "extractor": EXTRACTOR,
            "extracted": None,
            "gold": gold.completion,
            "metrics": {"gold_loss": losses[gold.item]},
        }
        for gold in golds
        if gold.item in losses
    ]
    if mean > LARGEST_MEAN:
        return TaskScores((loss,), samples)
    return TaskScores((loss, replace(loss, metric="gold_perplexity", value=math.exp(mean), stderr=None)), samples)
