"""How alike the gradients of two matrices are.

Of a gradient only its sketch `S = P_out^T G P_in`, (k, k), is known; cosines and Gram matrices survive the projection
up to its noise, about 1 / k for a cosine.

Known gaps: a Gram similarity is centred on its share class, so its mean over the `n (n - 1) / 2` pairs of equally
strong members is `-1 / (n - 1)`: similarities of small classes are low, and two members always have -1.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from spectral_ft.allocation.grouping import By, share_classes, share_label
from spectral_ft.errors import PlanError
from spectral_ft.types import MatrixShape, Probe

Similarity = Literal["cosine", "gram"]
"""Of the gradients themselves, or of their centred Gram matrices on the residual side."""
SMALLEST_COMPARABLE = 3
"""Members of a class whose mean can be removed: of two, each is then the other's opposite."""
ROUNDING = 1e-12
"""A unit matrix that differs from the mean by less than this does not differ."""


class PairSimilarity(NamedTuple):
    """Two matrices that could share, and how alike their gradients are."""

    label: str
    """Of their share class."""
    first: str
    """Module name."""
    second: str
    """Module name."""
    similarity: float
    """In [-1, 1]."""


def cosine_similarities(sketches: np.ndarray) -> np.ndarray:
    """Cosines between gradients, each taken as one long vector.

    Args:
        sketches: Shape (n, k, k).

    Returns:
        Shape (n, n), in [-1, 1]; NaN for a sketch that is zero.
    """
    return _cosines(np.asarray(sketches, dtype=np.float64))


def gram_similarities(sketches: np.ndarray, *, side: Literal["reads", "writes"]) -> np.ndarray:
    """Cosines between centred Gram matrices on the residual side: do two gradients act on the same directions?

        C_i = S_i^T S_i / |S_i^T S_i|_F (readers)  or  S_i S_i^T / |S_i S_i^T|_F (writers)
        similarity_ij = cos(C_i - mean C, C_j - mean C)

    The mean is removed because Gram matrices are positive semidefinite: any two of them look alike.

    Args:
        sketches: Of one share class, shape (n, k, k).
        side: Whether the matrices read the residual stream, on their second side, or write it, on their first.

    Returns:
        Shape (n, n), in [-1, 1]; NaN for a sketch that is zero, for a matrix that equals the mean, and everywhere if
        fewer than three matrices are left.
    """
    transposed = np.swapaxes(sketches, 1, 2)
    left, right = {"reads": (transposed, sketches), "writes": (sketches, transposed)}[side]
    gram = np.matmul(left, right, dtype=np.float64)
    norms = np.linalg.norm(gram, axis=(1, 2))
    known = norms > 0
    similarities = np.full((len(sketches), len(sketches)), np.nan)
    if known.sum() >= SMALLEST_COMPARABLE:
        unit = gram[known] / norms[known, None, None]
        similarities[np.ix_(known, known)] = _cosines(unit - unit.mean(axis=0), smallest=ROUNDING)
    return similarities


SIMILARITIES: Mapping[str, Callable[[np.ndarray, Literal["reads", "writes"]], np.ndarray]] = {
    "cosine": lambda sketches, side: cosine_similarities(sketches),
    "gram": lambda sketches, side: gram_similarities(sketches, side=side),
}
"""By option name: sketches of one share class, (n, k, k), and its side, to similarities, (n, n)."""


def class_similarities(members: Sequence[MatrixShape], probe: Probe, *, similarity: Similarity) -> np.ndarray:
    """How alike the gradients of a share class are.

    Args:
        members: Of one share class.
        probe: With a sketch of each.
        similarity: Which.

    Returns:
        Shape (n, n), in [-1, 1]; NaN where a pair cannot be compared.

    Raises:
        PlanError: If a sketch is missing or not finite, or the side is needed and not known.
    """
    for matrix in members:
        if matrix.name not in probe.sketches:
            raise PlanError(
                f"grouping.similarity={similarity} needs the gradient sketch of {matrix.name}, and the probe has "
                f"{len(probe.sketches)} others: let it look at every adapted matrix, or take grouping.similarity=snr."
            )
        if not np.isfinite(probe.sketches[matrix.name]).all():
            raise PlanError(
                f"the gradient sketch of {matrix.name} is not finite: probe again in a precision that holds it, or "
                "take grouping.similarity=snr."
            )
        if similarity == "gram" and matrix.side == "unknown":
            raise PlanError(
                f"grouping.similarity=gram compares gradients on the residual stream, and whether {matrix.name} reads "
                "or writes it is not known: take grouping.similarity=cosine."
            )
    sketches = np.stack([probe.sketches[matrix.name] for matrix in members])
    return SIMILARITIES[similarity](sketches, "writes" if members[0].side == "writes" else "reads")


def pair_similarities(
    matrices: Iterable[MatrixShape], probe: Probe, *, similarity: Similarity, by: By
) -> list[PairSimilarity]:
    """How alike the gradients of all matrices are that could share, pair by pair.

    Args:
        matrices: In any order.
        probe: With a sketch of each.
        similarity: Which.
        by: What the members of a share class have in common besides their shape.

    Returns:
        Every pair within a share class that can be compared, in the order of blocks.
    """
    found = []
    for members in share_classes(matrices, by=by):
        values = class_similarities(members, probe, similarity=similarity)
        found += [
            PairSimilarity(share_label(members[i], by), members[i].name, members[j].name, float(values[i, j]))
            for i, j in zip(*np.triu_indices(len(members), 1), strict=True)
            if not np.isnan(values[i, j])
        ]
    return found


def comparable_pairs(classes: Iterable[np.ndarray]) -> np.ndarray:
    """The values of several share classes, each pair once.

    Args:
        classes: Symmetric, shapes (n, n), NaN where a pair cannot be compared.

    Returns:
        Shape (pairs,): those that are not NaN.
    """
    pairs = np.concatenate([np.empty(0), *(values[np.triu_indices(len(values), 1)] for values in classes)])
    comparable: np.ndarray = pairs[~np.isnan(pairs)]
    return comparable


def split_half_agreement(probe: Probe, names: Iterable[str]) -> dict[str, float]:
    """How well each matrix's gradient agrees with itself on the other half of the batches: the ceiling of a cosine.

    Args:
        probe: With sketches and half sketches.
        names: Module names.

    Returns:
        Module name to the cosine of the sketches over the two halves; left out where one half is missing or zero.
    """
    found = {}
    for name in names:
        if name not in probe.half_sketches or name not in probe.sketches:
            continue
        half = probe.half_sketches[name].astype(np.float64)
        rows, cols = half.shape
        cosine = _cosines(np.stack([half, probe.sketches[name][:rows, :cols] - half]))[0, 1]
        if not np.isnan(cosine):
            found[name] = float(cosine)
    return found


def _cosines(matrices: np.ndarray, *, smallest: float = 0.0) -> np.ndarray:
    # NaN beside a matrix whose norm is not above the smallest: it has no direction.
    vectors = matrices.reshape(len(matrices), -1)
    norms = np.linalg.norm(vectors, axis=1)
    unit = np.divide(vectors, norms[:, None], out=np.full_like(vectors, np.nan), where=norms[:, None] > smallest)
    cosines: np.ndarray = np.clip(unit @ unit.T, -1.0, 1.0)
    return cosines
