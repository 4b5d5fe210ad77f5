"""The Marchenko-Pastur law: what the eigenvalues of a matrix of pure noise look like.

For an (m, n) matrix of independent entries of variance 1, `m <= n`, the eigenvalues of `W W^T / n`
lie between `(1 - sqrt(beta))^2` and `(1 + sqrt(beta))^2`, `beta = m / n`. All in closed form.

Source: Marchenko and Pastur 1967; the largest eigenvalue: Johnstone 2001, theorem 1.1.
"""

import math
from typing import Any

import numpy as np

TRACY_WIDOM = {0.95: 0.9793, 0.99: 2.0234}
"""Quantiles of the Tracy-Widom law for real matrices (beta = 1)."""


def support(beta: float) -> tuple[float, float]:
    """Where the density is not zero.

    Args:
        beta: m / n, in (0, 1].

    Returns:
        Lower and upper edge.
    """
    return (1 - math.sqrt(beta)) ** 2, (1 + math.sqrt(beta)) ** 2


def density(x: np.ndarray, beta: float) -> np.ndarray:
    """The density, 0 outside the support.

    Args:
        x: Eigenvalues of `W W^T / n` at unit variance, positive.
        beta: m / n, in (0, 1].

    Returns:
        Shape of `x`.
    """
    return np.asarray(_density(x, beta, np.sqrt, np.maximum))


def _density(x: Any, beta: float, sqrt: Any, larger: Any) -> Any:
    low, high = support(beta)
    return sqrt(larger((high - x) * (x - low), 0.0)) / (2 * math.pi * beta * x)


def distribution(x: np.ndarray, beta: float) -> np.ndarray:
    """The cumulative distribution.

    Args:
        x: As for `density`.
        beta: m / n, in (0, 1].

    Returns:
        In [0, 1], shape of `x`.
    """
    return _cumulative(x, beta, sqrt=np.sqrt, asin=np.asin, clip=np.clip)


def _cumulative(x: Any, beta: float, *, sqrt: Any, asin: Any, clip: Any) -> Any:
    low, high = support(beta)
    x = clip(x, low, high)
    root = sqrt((high - x) * (x - low))
    middle, width = (low + high) / 2, 2 * math.sqrt(beta)
    around = asin(clip((x - middle) / width, -1.0, 1.0))
    # At beta = 1 the lower edge is 0 and the term vanishes with it.
    inverse = asin(clip((middle * x - low * high) / (width * (x + 1e-300)), -1.0, 1.0))
    found = (root + middle * around - math.sqrt(low * high) * inverse) / (2 * math.pi * beta) + 0.5
    return clip(found, 0.0, 1.0)


def mean_below(x: float, beta: float) -> float:
    """The part of the mean (which is 1) that lies below `x`: the integral of `t dF(t)`.

    Args:
        x: As for `density`.
        beta: m / n, in (0, 1].

    Returns:
        In [0, 1].
    """
    low, high = support(beta)
    u = _between((x - (low + high) / 2) / (2 * math.sqrt(beta)), -1.0, 1.0)
    return (u * math.sqrt(1 - u * u) + math.asin(u)) / math.pi + 0.5


def _between(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


def quantile(probability: float, beta: float, *, start: float = 1.0) -> float:
    """Where the distribution reaches a probability: Newton's steps, bisected where they leave the bracket.

    Args:
        probability: In [0, 1].
        beta: m / n, in (0, 1].
        start: Where Newton's steps begin: a quantile of a law nearby saves most of them.

    Returns:
        As for `density`.
    """
    low, high = support(beta)
    x = min(max(start, low), high)
    for _ in range(100):
        # The same formulas on a number: numpy takes ten times as long for one.
        excess = _cumulative(x, beta, sqrt=math.sqrt, asin=math.asin, clip=_between) - probability
        low, high = (low, x) if excess > 0 else (x, high)
        slope = _density(x, beta, math.sqrt, max) if x > 0 else 0.0
        step = x - excess / slope if slope else low
        following = step if low <= step <= high else (low + high) / 2
        if abs(following - x) <= 1e-13 * x:
            break
        x = following
    return x


def largest_eigenvalue(m: int, n: int, level: float) -> float:
    """A bound that the largest eigenvalue of noise stays below with a given probability.

    Args:
        m: Smaller side.
        n: Larger side.
        level: 0.95 or 0.99.

    Returns:
        Eigenvalue of `W W^T` (not divided by n) at unit variance.
    """
    a, b = math.sqrt(n - 0.5), math.sqrt(m - 0.5)
    return (a + b) ** 2 + TRACY_WIDOM[level] * (a + b) * (1 / a + 1 / b) ** (1 / 3)
