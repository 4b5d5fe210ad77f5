"""How heavy the tail of the eigenvalues is.

Known gaps: the median and peak rules and the power-law fit over every `x_min` are not here yet.
"""

import numpy as np

from spectral_ft.spectral.eigenvalues import FEWEST_EIGENVALUES, Shape, Undefined, nonzero_eigenvalues


def alpha_hill(s: np.ndarray, shape: Shape) -> float:
    """Hill's tail exponent of the eigenvalue density over the upper half.

    `1 + k / sum_{i > m-k} ln(lambda_i / lambda_{m-k})` with lambda ascending and `k = ceil(m / 2)`;
    scale invariant.

    Source: LoRA-AR, eq. 2. Departs from it: zero eigenvalues are left out.

    Args:
        s: Singular values, descending, shape (m,).
        shape: Of the matrix; not used.

    Returns:
        The exponent, above 1.

    Raises:
        Undefined: If fewer than 50 eigenvalues are not zero, or the upper half is constant.
    """
    del shape
    eigenvalues = nonzero_eigenvalues(s)
    count = len(eigenvalues)
    if count < FEWEST_EIGENVALUES:
        raise Undefined(f"{count} nonzero eigenvalues, fewer than {FEWEST_EIGENVALUES}")
    k = -(-count // 2)
    logs = np.log(eigenvalues[count - k :] / eigenvalues[max(count - k - 1, 0)])
    if logs.sum() <= k * count * np.finfo(np.float64).eps:
        raise Undefined("the upper half of the eigenvalues is constant")
    return float(1 + k / logs.sum())
