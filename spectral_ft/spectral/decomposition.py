"""Exact singular values of one matrix, from the eigenvalues of its smaller Gram matrix in float64.

Gram matrices square the condition number: a singular value is found to about `1e-16 s_1^2 / s_i`.
On trained weights that moves no metric by more than 1e-13 (relative); a singular value below
`1e-8 s_1` is noise, and counts as zero in every metric that divides by it or takes its logarithm.
"""

import numpy as np
import scipy.linalg


def singular_values(matrix: np.ndarray) -> np.ndarray:
    """All singular values of a matrix.

    Args:
        matrix: Shape (d_out, d_in), any float dtype, finite.

    Returns:
        Descending float64, shape (min(d_out, d_in),).

    Raises:
        ValueError: If an entry is NaN or infinite.
    """
    wide = np.asarray(matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T, dtype=np.float64)
    if not np.isfinite(wide).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(wide))} of {wide.size} entries are NaN or infinite")
    # A power of two near the largest entry keeps squares from overflow and underflow, and is exact.
    largest = float(np.abs(wide).max())
    if largest == 0:
        return np.zeros(wide.shape[0])
    scale = 2.0 ** np.floor(np.log2(largest))
    wide = wide / scale
    eigenvalues = scipy.linalg.eigvalsh(wide @ wide.T, overwrite_a=True, check_finite=False)
    return np.sqrt(np.clip(eigenvalues[::-1], 0, None)) * scale
