"""What stands above the Marchenko-Pastur bulk.

Notation: `lambda_i = s_i^2`, `Q = n / m`.

Known gaps: the calibrated edge and the permutation null are not here yet.
"""

import numpy as np

from spectral_ft.spectral.eigenvalues import FEWEST_EIGENVALUES, Shape, Undefined, nonzero_eigenvalues


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
    count = len(nonzero_eigenvalues(s))
    if count < FEWEST_EIGENVALUES:
        raise Undefined(f"{count} nonzero eigenvalues, fewer than {FEWEST_EIGENVALUES}")
    eigenvalues = s**2
    edge = eigenvalues.mean() * (1 + np.sqrt(min(shape) / max(shape))) ** 2
    return float(np.count_nonzero(eigenvalues > edge))
