"""From a column to distances, from distances to groups; and the controls, of the same sizes without a distance."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from spectral_ft.errors import PlanError
from spectral_ft.types import SpectralReport

FAR = 1e15
"""Distance of a pair that cannot be compared; linkage wants finite numbers."""
ROUNDING = 1e-12
"""A limit on the similarity that is closer to 1 than this counts as this far from it."""


def positive_values(report: SpectralReport, names: Iterable[str], *, column: str) -> dict[str, float]:
    """The column of some matrices, where it has a logarithm.

    Args:
        report: Of the model.
        names: Module names.
        column: Of the report.

    Returns:
        Module name to value, positive and finite, by name; the others are left out.

    Raises:
        PlanError: If the report has no such matrix, or no such column.
    """
    spectra = {spectrum.matrix.name: spectrum for spectrum in report.matrices}
    found = {}
    for name in sorted(names):
        if name not in spectra:
            raise PlanError(
                f"{name} is adapted but none of the {len(spectra)} matrices of {report.model}: group the allocations "
                "of this model's report."
            )
        columns = spectra[name].columns
        if column not in columns:
            known = ", ".join(columns) or "none: the report was made from shapes alone"
            raise PlanError(f"grouping.column={column!r} is not in the report; its columns are {known}.")
        value = columns[column]
        if value is not None and 0 < value < math.inf:
            found[name] = value
    return found


def scaled_log_distances(values: np.ndarray) -> np.ndarray:
    """Differences of logarithms, relative to the largest one.

        |ln v_i - ln v_j| / (ln v_max - ln v_min)

    Args:
        values: Of one share class, positive, shape (n,).

    Returns:
        Shape (n, n), in [0, 1]; 0 everywhere where all values are equal.
    """
    logarithms = np.log(values)
    differences: np.ndarray = np.abs(logarithms[:, None] - logarithms[None, :])
    largest = float(differences.max(initial=0.0))
    return differences / (largest or 1.0)


def joint_distances(
    log_distances: np.ndarray, similarities: np.ndarray | None, *, snr_threshold: float, limit: float
) -> np.ndarray:
    """Distances of which a pair holds both limits where it is at most 1.

        max(d_snr / snr_threshold, (1 - similarity) / (1 - limit))

    Args:
        log_distances: Of the column, shape (n, n), in [0, 1].
        similarities: Shape (n, n), NaN where a pair cannot be compared; None where only the column counts.
        snr_threshold: Largest distance of the column.
        limit: Smallest similarity.

    Returns:
        Shape (n, n), at least 0, finite.
    """
    joint = log_distances / snr_threshold
    if similarities is not None:
        joint = np.maximum(joint, (1 - similarities) / max(1 - limit, ROUNDING))
    return np.nan_to_num(joint, nan=FAR)


def linked_groups(distances: np.ndarray, *, max_size: int) -> list[list[int]]:
    """Cluster by complete linkage and cut at 1: all pairs of a group are at most 1 apart.

    A cluster above `max_size` is split into the children of its root, and these again, so that what the tree joined
    first stays together.

    Args:
        distances: Symmetric, shape (n, n), finite.
        max_size: Largest group, at least 2.

    Returns:
        The groups of two or more, each ascending, in the order of their first members.
    """
    if len(distances) < 2:
        return []
    from scipy.cluster.hierarchy import linkage, to_tree

    waiting = [to_tree(linkage(distances[np.triu_indices(len(distances), 1)], method="complete"))]
    groups: list[list[int]] = []
    while waiting:
        node = waiting.pop()
        if node.is_leaf():
            continue
        if node.dist <= 1 and node.count <= max_size:
            groups.append(sorted(node.pre_order()))
        else:
            waiting += [node.left, node.right]
    return sorted(groups)


def random_groups(sizes: Sequence[int], count: int, generator: np.random.Generator) -> list[list[int]]:
    """Control: groups of these sizes, members drawn at random.

    Args:
        sizes: Of the groups; at most `count` in all.
        count: Members of the class.
        generator: Advanced by one permutation.

    Returns:
        The groups, each ascending.
    """
    order = generator.permutation(count)
    ends = np.cumsum(sizes, dtype=int)
    return [sorted(order[end - size : end].tolist()) for size, end in zip(sizes, ends, strict=True)]


def adjacent_groups(sizes: Sequence[int], count: int, generator: np.random.Generator) -> list[list[int]]:
    """Control: groups of these sizes, each of neighbours; those in no group are spread evenly between them.

    Args:
        sizes: Of the groups; at most `count` in all.
        count: Members of the class, in the order of blocks.
        generator: Not used: nothing is drawn.

    Returns:
        The groups, each ascending.
    """
    del generator
    alone = count - sum(sizes)
    starts = np.cumsum([0, *sizes], dtype=int)
    firsts = [int(starts[i]) + alone * (i + 1) // (len(sizes) + 1) for i in range(len(sizes))]
    return [list(range(first, first + size)) for first, size in zip(firsts, sizes, strict=True)]


CONTROLS: Mapping[str, Callable[[Sequence[int], int, np.random.Generator], list[list[int]]]] = {
    "random": random_groups,
    "adjacent": adjacent_groups,
}
"""By option name."""
