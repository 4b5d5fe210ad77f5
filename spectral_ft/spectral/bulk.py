"""LoRA-AR's spikes: what stands above the Marchenko-Pastur edge of the mean eigenvalue.

Notation: `lambda_i = s_i^2`, `Q = n / m`.
"""

import numpy as np

from spectral_ft.spectral.eigenvalues import Shape, enough_eigenvalues


def num_spikes(s: np.ndarray, shape: Shape) -> float:
    """Eigenvalues above the Marchenko-Pastur edge, whose variance is the mean eigenvalue.

    Edge: `sigma^2 (1 + 1 / sqrt Q)^2` with `sigma^2 = mean(lambda)`; scale invariant. The spikes
    themselves inflate `sigma^2`, so many of them hide some.

    Source: LoRA-AR, eqs. 3-4.

    Args:
        s: Singular values, descending, shape (m,).
        shape: Of the matrix.

    Returns:
        The count.

    Raises:
        Undefined: If fewer than 50 eigenvalues are not zero.
    """
    enough_eigenvalues(s)
    return float(np.count_nonzero(s**2 > _edge(s, shape)))


def num_spikes_tw(s: np.ndarray, shape: Shape) -> float:
    """`num_spikes` with the term that LoRA-AR's code adds to the edge.

    Edge: `e + sqrt(Q^(-1/2) e^(2/3) m^(-2/3))` with `e` the edge of `num_spikes`. The term is
    WeightWatcher's Tracy-Widom correction without the rescaling to mean 1 that it needs, so the
    count depends on the scale of the weights: small weights lose their spikes.

    Source: the code of LoRA-AR, its default.

    Args:
        s: Singular values, descending, shape (m,).
        shape: Of the matrix.

    Returns:
        The count.

    Raises:
        Undefined: If fewer than 50 eigenvalues are not zero.
    """
    enough_eigenvalues(s)
    edge, m, n = _edge(s, shape), min(shape), max(shape)
    return float(np.count_nonzero(s**2 > edge + np.sqrt(np.sqrt(m / n) * edge ** (2 / 3) * m ** (-2 / 3))))


def _edge(s: np.ndarray, shape: Shape) -> float:
    return float(np.mean(s**2) * (1 + np.sqrt(min(shape) / max(shape))) ** 2)
