"""Intervals of scores."""

from scipy.stats import binomtest


def wilson_interval(value: float, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share of right answers.

    Source: Wilson 1927; recommended for small n in Brown, Cai and DasGupta 2001, section 4.1.

    Args:
        value: Share in [0, 1].
        n: Items.
        confidence: Of the interval.

    Returns:
        Lower and upper end.
    """
    interval = binomtest(round(value * n), n).proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)
