"""How good predicted classes are: counts over items, without a model.

    accuracy = right / items        F1 of a class = 2 tp / (2 tp + fp + fn)

Source of F1: van Rijsbergen, Information Retrieval (1979), chapter 7.
"""

from collections.abc import Sequence

import numpy as np


def f1(
    gold: Sequence[int] | np.ndarray, predicted: Sequence[int] | np.ndarray, *, classes: int, positive: int
) -> float:
    """F1 of the positive one of two classes, or the mean over more.

    Args:
        gold: Right class of each item.
        predicted: Predicted class of each item.
        classes: How many there are.
        positive: Which of two is looked for.

    Returns:
        In [0, 1]. A class that is neither right nor predicted anywhere is left out of the mean; the positive one of
        two then has 0.
    """
    truth, guess = np.asarray(gold), np.asarray(predicted)
    counted = [positive] if classes == 2 else np.union1d(truth, guess)
    return float(np.mean([_f1_of(truth == one, guess == one) for one in counted]))


def _f1_of(truth: np.ndarray, guess: np.ndarray) -> float:
    both = int((truth & guess).sum())
    return 2 * both / max(1, int(truth.sum() + guess.sum()))  # the sum is 2 tp + fp + fn


def standard_error(values: Sequence[float] | np.ndarray) -> float | None:
    """Standard error of a mean, as the harness computes it.

    Args:
        values: One an item.

    Returns:
        Sample standard deviation over sqrt(items); None for a single item.
    """
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
