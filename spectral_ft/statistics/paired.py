"""Two runs on the same items, one run a side.

Interval and p come from different procedures (a bootstrap, an exact test), so at the border one may see a difference
where the other does not; the exact test is the stricter one.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest, permutation_test

from spectral_ft.errors import DataError
from spectral_ft.statistics.intervals import CONFIDENCE, DRAWS, are_shares, batch, bootstrap_interval, finite
from spectral_ft.statistics.results import Difference

MCNEMAR = "McNemar, exact"
SIGNS = "sign permutation"


def paired_difference(
    first: ArrayLike, other: ArrayLike, *, confidence: float = CONFIDENCE, draws: int = DRAWS, seed: int = 0
) -> Difference:
    """The mean of one run less that of another, with a paired interval and test.

    Pairing takes out what makes an item easy or hard for both. The interval is the bootstrap's over items, of
    `d_i = x_i - y_i`. For right and wrong answers p is McNemar's, exact: of the items right on one side only, as many
    should fall to either side as heads to tails. For other values the signs of `d_i` are permuted.

    Source: McNemar 1947, `statsmodels.stats.contingency_tables.mcnemar`; Fisher, The Design of Experiments (1935),
    section 21, `scipy.stats.permutation_test`.
    Departs from them: where two runs are right on the same items, the bootstrap's interval has no width. Items of
    another kind are as frequent as the Clopper-Pearson upper end of 0 of n at most, which is as far as it then goes.

    Args:
        first: Values of one run, shape (items,), 0 and 1 or real.
        other: Of the other, in the same order of items.
        confidence: Of the interval.
        draws: Of bootstrap and permutation.
        seed: Of their generators.

    Returns:
        The difference, over items.

    Raises:
        DataError: If the numbers of items differ, there are fewer than two, or a value is NaN or infinite.
    """
    one, two = finite(first, sides=1), finite(other, sides=1)
    same_items(one, two)
    differences = one - two
    low, high = bootstrap_interval(differences, confidence=confidence, draws=draws, seed=seed)
    shares = are_shares(one, two)
    right = (int((differences > 0).sum()), int((differences < 0).sum()))
    if shares and low == high:
        unseen = float(binomtest(0, len(one)).proportion_ci(confidence_level=confidence, method="exact").high)
        reach = unseen * (1 + abs(low))  # another item would be 1 away from 0, and up to 2 away from 1 or -1
        low, high = max(low - reach, -1.0), min(high + reach, 1.0)
    return Difference(
        difference=float(differences.mean()),
        low=low,
        high=high,
        p=_mcnemar(*right) if shares else _permuted(differences, draws, seed),
        test=MCNEMAR if shares else SIGNS,
        items=len(one),
        seeds=1,
        over="items",
        shares=shares,
        only_first=right[0] if shares else None,
        only_other=right[1] if shares else None,
    )


def same_items(first: np.ndarray, other: np.ndarray) -> None:
    """Refuse sides that cannot be paired.

    Args:
        first: Shape (..., items).
        other: The same number of items.

    Raises:
        DataError: If the numbers of items differ.
    """
    if first.shape[-1] != other.shape[-1]:
        raise DataError(
            f"{first.shape[-1]} and {other.shape[-1]} items cannot be paired: give values of the same items."
        )


def _mcnemar(only_first: int, only_other: int) -> float:
    from statsmodels.stats.contingency_tables import mcnemar

    # The items on which both agree do not enter the exact test.
    return float(mcnemar([[0, only_first], [only_other, 0]], exact=True).pvalue)


def _permuted(differences: np.ndarray, draws: int, seed: int) -> float:
    def mean(values: np.ndarray, axis: int) -> Any:
        return np.mean(values, axis=axis)

    return float(
        permutation_test(
            (differences,),
            mean,
            permutation_type="samples",
            vectorized=True,
            n_resamples=draws,
            batch=batch(len(differences)),
            rng=np.random.default_rng(seed),
        ).pvalue
    )
