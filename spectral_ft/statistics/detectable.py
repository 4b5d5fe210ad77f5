"""How large a difference must be to be seen: before an experiment, not after it."""

from math import inf, sqrt

from scipy.optimize import brentq
from scipy.stats import ncf, norm
from scipy.stats import t as student

from spectral_ft.errors import DataError

POWER = 0.8
ALPHA = 0.05
LEAST = 1e-9
"""Where the search starts: scipy has no noncentral F at 0."""


def discordance(share: float, correlation: float) -> float:
    """Share of items on which two equally good runs differ.

        2 p (1 - p) (1 - correlation)

    Source: the variance of a difference of two Bernoulli variables of the same p.

    Args:
        share: Of right answers of either, in [0, 1].
        correlation: Of the answers over items (phi), in [-1, 1]; 0 is chance, 1 the same items.

    Returns:
        In [0, 1].

    Raises:
        DataError: If share or correlation is out of range, or no two such runs exist.
    """
    if not (0 <= share <= 1 and -1 <= correlation <= 1):
        raise DataError(f"share {share} and correlation {correlation} cannot be: take [0, 1] and [-1, 1].")
    found = 2 * share * (1 - share) * (1 - correlation)
    if found > 2 * min(share, 1 - share) + 1e-12:
        raise DataError(f"no two runs of share {share} have a correlation of {correlation}: take a larger one.")
    return found


def minimal_detectable_difference(
    items: int,
    *,
    discordance: float,
    seeds: int = 1,
    between_seeds: float = 0.0,
    power: float = POWER,
    alpha: float = ALPHA,
) -> float:
    """The smallest difference of two shares on the same items that a test finds with a given power.

    One seed, for McNemar's test: `D` with

        sqrt(n) D = z_(1 - alpha/2) sqrt(q) + z_power sqrt(q - D^2)

    Several seeds, for `difference_over_seeds` with the same seeds, by the noncentral F distribution:

        P(F_(1, freedom, (D / error)^2) > t_(1 - alpha/2, freedom)^2) = power,  error^2 = s^2 / k + (q - D^2) / n

    with Satterthwaite's degrees of freedom of the two parts (k - 1 and n - 1). Which items differ is taken to be the
    same for all seeds; where it varies, its noise is divided by k too and less can be seen.

    Source: Connor, Biometrics 43 (1987) 207; Hillis, Obuchowski and Berbaum, Academic
    Radiology 18 (2011) 129, for readers and cases.

    Args:
        items: n.
        discordance: q, the share of items right on one side only.
        seeds: k.
        between_seeds: s, standard deviation from seed to seed of the true difference.
        power: Probability to find it.
        alpha: Of the two-sided test.

    Returns:
        D, a share (times 100: points).

    Raises:
        DataError: If a number is out of range, s is given for one seed, or no difference is large enough.
    """
    _check(items, discordance, seeds=seeds, between_seeds=between_seeds, power=power, alpha=alpha)

    def lacks(difference: float) -> float:
        return power - _power(difference, items, discordance, seeds=seeds, between_seeds=between_seeds, alpha=alpha)

    if lacks(discordance) > 0:
        raise DataError(
            f"{items} items of which {100 * discordance:g} % differ show no difference with power {power:g}: "
            f"it is {100 * discordance:g} points at most. Take more items or seeds."
        )
    return float(brentq(lacks, LEAST, discordance))


def _power(
    difference: float, items: int, discordance: float, *, seeds: int, between_seeds: float, alpha: float
) -> float:
    spread = sqrt(max(discordance - difference**2, 0.0))
    if seeds == 1:
        above = sqrt(items) * difference - norm.ppf(1 - alpha / 2) * sqrt(discordance)
        return float(norm.cdf(above / spread)) if spread else float(above >= 0)
    seed_part, item_part = between_seeds**2 / seeds, spread**2 / items
    variance = seed_part + item_part
    against = seed_part**2 / (seeds - 1) + item_part**2 / (items - 1)
    if not against:
        return 1.0
    freedom = variance**2 / against
    bound, away = student.ppf(1 - alpha / 2, freedom), difference / sqrt(variance)
    return float(ncf.sf(bound**2, 1, freedom, away**2))


def _check(items: int, discordance: float, *, seeds: int, between_seeds: float, power: float, alpha: float) -> None:
    if items < 2 or seeds < 1:
        raise DataError(f"{items} items and {seeds} seeds show no difference: take at least 2 and 1.")
    if not (0 < discordance <= 1 and 0 < alpha < power < 1 and 0 <= between_seeds < inf):
        raise DataError(
            f"discordance {discordance}, alpha {alpha}, power {power}, between_seeds {between_seeds} cannot be: take "
            "0 < discordance <= 1, 0 < alpha < power < 1, between_seeds >= 0."
        )
    if seeds == 1 and between_seeds:
        raise DataError(
            f"one seed cannot tell a spread of {between_seeds} between seeds from a difference: take at least 2 seeds."
        )
