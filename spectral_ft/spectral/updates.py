"""The spectrum of a low-rank update `U = scaling B A`, what it says of the ranks, and the best smaller update.

`U` is never formed: with the QRs `B = Q_b R_b` and `A^T = Q_a R_a` its singular values are those of the small
`scaling R_b R_a^T`. docs/updates.md says what each column means and where it misleads.
"""

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack, solve_triangular

from spectral_ft.spectral.eigenvalues import Shape, Undefined
from spectral_ft.spectral.metrics import Columns
from spectral_ft.spectral.norms import effective_rank, frobenius_norm, num_zero, spectral_norm, stable_rank
from spectral_ft.spectral.subspaces import Decomposed, principal_angles

ENERGIES = (0.9, 0.95, 0.99)
"""Shares of the squared singular values for which `rank_90`, `rank_95` and `rank_99` are given."""
FEWEST_VALUES = 8
"""Below this rank the median of the singular values says nothing about noise."""
NOISE_DRAWS = 100
NOISE_QUANTILE = 0.95
RIDGE = 1e-3
"""Of the mean second moment, added to every direction: what a few calibration batches did not show is not free."""


def triangle(factor: np.ndarray) -> np.ndarray:
    """The triangular factor R of a QR decomposition, without Q.

    Args:
        factor: Shape (n, r).

    Returns:
        float64, shape (min(n, r), r).

    Raises:
        LinAlgError: If LAPACK refuses its arguments.
    """
    work = np.array(factor, dtype=np.float64, order="F")
    reduced, _, _, info = lapack.dgeqrf(work, lwork=64 * work.shape[1], overwrite_a=1)
    if info:
        raise np.linalg.LinAlgError(f"dgeqrf failed with {info}")
    return np.triu(reduced[: min(reduced.shape)])


def update_values(a: np.ndarray, b: np.ndarray, *, scaling: float) -> np.ndarray:
    """The singular values of `scaling B A`.

    Args:
        a: Shape (r, d_in).
        b: Shape (d_out, r).
        scaling: What the product is multiplied by.

    Returns:
        Descending float64, shape (min(r, d_in, d_out),).
    """
    return abs(scaling) * np.linalg.svd(triangle(b) @ triangle(a.T).T, compute_uv=False)


def decomposed_update(a: np.ndarray, b: np.ndarray, *, scaling: float) -> Decomposed:
    """The singular value decomposition of `scaling B A`.

    Args:
        a: Shape (r, d_in).
        b: Shape (d_out, r).
        scaling: What the product is multiplied by.

    Returns:
        Its min(r, d_in, d_out) values with their vectors.
    """
    left, upper = np.linalg.qr(np.asarray(b, np.float64))
    right, lower = np.linalg.qr(np.asarray(a, np.float64).T)
    u, values, vt = np.linalg.svd(scaling * upper @ lower.T, full_matrices=False)
    return Decomposed(left @ u, values, right @ vt.T)


def energy_rank(values: np.ndarray, energy: float) -> int:
    """The least rank that keeps a share of the squared singular values.

    Args:
        values: Descending, shape (r,).
        energy: Share, in (0, 1].

    Returns:
        0 for a zero update.
    """
    squares = np.square(values)
    if not squares.any():
        return 0
    kept = np.cumsum(squares) / squares.sum()
    return min(int(np.searchsorted(kept, energy - 1e-12)) + 1, int(np.count_nonzero(values)))


@cache
def _noise_ratio(rank: int, shape: Shape) -> float:
    # The 95 % quantile of s_1 / median(s) for the product of two independent Gaussian factors. Their triangles are
    # drawn directly (Bartlett): no factor of full size is made.
    generator = np.random.default_rng([rank, *shape])
    drawn = []
    for _ in range(NOISE_DRAWS):
        upper, lower = (_bartlett(generator, side, rank) for side in shape)
        values = np.linalg.svd(upper @ lower.T, compute_uv=False)
        drawn.append(values[0] / np.median(values))
    return float(np.quantile(drawn, NOISE_QUANTILE))


def _bartlett(generator: np.random.Generator, side: int, rank: int) -> np.ndarray:
    rows = min(side, rank)
    found = np.triu(generator.standard_normal((rows, rank)), 1)
    np.fill_diagonal(found, np.sqrt(generator.chisquare(side - np.arange(rows))))
    return found


def noise_edge(values: np.ndarray, shape: Shape, *, rank: int) -> float:
    """Where singular values would end if both factors were noise of the same median.

    The null: `A` and `B` have independent Gaussian entries. Then `s_1 / median(s)` depends on shape and rank alone, and
    its 95 % quantile over 100 draws, times the median that was seen, is the edge. One matrix in twenty of pure noise
    has a value above it. It says nothing about a trained factor that is no noise, and nothing about use.

    Args:
        values: Descending, shape (m,).
        shape: (d_out, d_in).
        rank: r.

    Returns:
        In units of the weights.

    Raises:
        Undefined: If there are fewer than 8 values, or some are zero.
    """
    if len(values) < FEWEST_VALUES:
        raise Undefined(f"{len(values)} singular values, fewer than {FEWEST_VALUES}")
    if values[0] == 0 or (zero := num_zero(values, shape)):
        raise Undefined(f"{len(values) if values[0] == 0 else int(zero)} of {len(values)} singular values are zero")
    return float(np.median(values)) * _noise_ratio(rank, shape)


def update_columns(values: np.ndarray, shape: Shape, *, rank: int) -> Columns:
    """What the singular values of an update say.

    Args:
        values: Descending, shape (m,).
        shape: (d_out, d_in).
        rank: r of the factors.

    Returns:
        Values, null where one means nothing, and the reasons of the nulls.
    """
    columns: dict[str, float | None] = {
        "spectral_norm": spectral_norm(values, shape),
        "frobenius_norm": frobenius_norm(values, shape),
        **{f"rank_{100 * share:.0f}": float(energy_rank(values, share)) for share in ENERGIES},
        "num_zero": float(len(values)) if values[0] == 0 else num_zero(values, shape),
    }
    reasons: dict[str, str] = {}

    def add(name: str, value: Callable[[], float]) -> None:
        try:
            columns[name] = value()
        except Undefined as why:
            columns[name], reasons[name] = None, str(why)

    add("stable_rank", lambda: stable_rank(values, shape))
    add("effective_rank", lambda: effective_rank(values, shape))
    add("used", lambda: effective_rank(values, shape) / rank)
    add("noise_edge", lambda: noise_edge(values, shape, rank=rank))
    add("num_spikes", lambda: float(np.count_nonzero(values > noise_edge(values, shape, rank=rank))))
    return columns, reasons


def budget_ranks(
    values: Mapping[str, np.ndarray],
    costs: Mapping[str, int],
    budget: int,
    *,
    least: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Ranks by one cut over all matrices: the largest `s^2 / cost` first, until the budget is used.

    For matrices of one shape no other ranks keep more of the squared singular values. For several shapes what is lost
    is at most one rank more than the least possible, since singular values fall within a matrix. A component that does
    not fit is passed over for cheaper ones; zero components are never bought.

    Args:
        values: Name to singular values, descending.
        costs: Name to the parameters of one rank, `d_in + d_out`.
        budget: Parameters.
        least: Ranks that are bought first; 0 if missing.

    Returns:
        Name to rank; together they cost at most the budget.

    Raises:
        ValueError: If the budget is below the least ranks, or below one rank of the cheapest matrix.
    """
    ranks = {name: (least or {}).get(name, 0) for name in values}
    left = budget - sum(costs[name] * rank for name, rank in ranks.items())
    if left < 0 or budget < min(costs[name] for name in values):
        needed = max(budget - left, min(costs[name] for name in values))
        raise ValueError(f"{budget:,} parameters are below the least possible, {needed:,}")
    names = list(values)
    order = [
        (-(float(value) ** 2) / costs[name], place, number, name)
        for place, name in enumerate(names)
        for number, value in enumerate(values[name])
        if value > 0 and number >= ranks[name]
    ]
    for _, _, number, name in sorted(order):
        if ranks[name] == number and costs[name] <= left:
            ranks[name], left = number + 1, left - costs[name]
    return ranks


class Moment(NamedTuple):
    """A second moment `sum_t v_t v_t^T` of vectors, in k orthonormal directions of them."""

    gram: np.ndarray
    """Shape (k, k)."""
    trace: float
    """`sum_t |v_t|^2`."""
    size: int
    """Entries of a vector."""


class Core(NamedTuple):
    """A weighted update: its singular values in the weighted norm, and the way back."""

    values: np.ndarray
    """Descending, shape (k,)."""
    left: np.ndarray
    """Shape (k, k): column j in the left directions of the update."""
    right: np.ndarray
    """Shape (k, k)."""


def weighted_core(update: Decomposed, *, inputs: Moment | None = None, outputs: Moment | None = None) -> Core:
    """Decompose an update in the norm `|S^(1/2) U C^(1/2)|_F` of second moments C of inputs and S of output gradients.

    With `U = P D Q^T` only `Q^T C Q` and `P^T S P` are needed, of shape (k, k): the best approximation of any rank
    stays in the span of P and Q. Each moment gets a ridge of 1e-3 of its mean.

    Args:
        update: P, D, Q.
        inputs: C in the directions Q; None for the identity.
        outputs: S in the directions P; None for the identity.

    Returns:
        The decomposition; all values are zero if a moment is.
    """
    inward, outward = _root(inputs, len(update.values)), _root(outputs, len(update.values))
    if inward is None or outward is None:
        unit = np.eye(len(update.values))
        return Core(np.zeros_like(update.values), unit, unit)
    u, values, vt = np.linalg.svd(outward.T @ (update.values[:, None] * inward))
    left = solve_triangular(outward, u, lower=True, trans="T")
    right = solve_triangular(inward, vt.T, lower=True, trans="T")
    return Core(values, left, right)


def _root(moment: Moment | None, size: int) -> np.ndarray | None:
    if moment is None:
        return np.eye(size)
    if moment.trace <= 0:
        return None
    ridge = RIDGE * moment.trace / moment.size
    return np.linalg.cholesky(moment.gram + ridge * np.eye(size))


def balanced_factors(
    update: Decomposed, rank: int, *, scaling: float, core: Core | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The factors of the best update of a rank, each with the same share of it.

    Args:
        update: Of a larger rank.
        rank: At most that.
        scaling: What their product will be multiplied by, not zero.
        core: Of the norm in which it is the best; None for the Frobenius norm.

    Returns:
        A (rank, d_in) and B (d_out, rank), float64, with `A A^T = B^T B` diagonal.
    """
    if core is None:
        left, values, right = (part[..., :rank] for part in update)
    else:
        small = (core.left[:, :rank] * core.values[:rank]) @ core.right[:, :rank].T
        u, values, vt = np.linalg.svd(small)
        left, values, right = update.left @ u[:, :rank], values[:rank], update.right @ vt[:rank].T
    root = np.sqrt(values / abs(scaling))
    return root[:, None] * right.T, math.copysign(1, scaling) * left * root


def pair_columns(one: Decomposed, other: Decomposed) -> Columns:
    """How two updates of one matrix lie to each other, and what their sum is.

    Args:
        one: The first.
        other: The second, of the same shape.

    Returns:
        Values, null where one means nothing, and the reasons of the nulls.
    """
    norms = [float(np.linalg.norm(update.values)) for update in (one, other)]
    if 0 in norms:
        names = (
            *("top", "angle_left", "angle_right", "mean_angle_left", "mean_angle_right", "overlap_left"),
            *("overlap_right", "chance_left", "chance_right", "cosine", "interference", "interference_back"),
            *("kept_first", "kept_second", "sum_frobenius_norm", "sum_spectral_norm", "sum_rank_90", "sum_rank_99"),
        )
        return dict.fromkeys(names), dict.fromkeys(names, "an update is zero")
    top = min(energy_rank(update.values, ENERGIES[0]) for update in (one, other))
    columns: dict[str, float | None] = {"top": float(top)}
    for side, first, second in (("left", one.left, other.left), ("right", one.right, other.right)):
        angles = principal_angles(first[:, :top], second[:, :top])
        columns |= {
            f"angle_{side}": float(angles[0]),
            f"mean_angle_{side}": float(angles.mean()),
            f"overlap_{side}": float(np.mean(np.cos(angles) ** 2)),
            f"chance_{side}": top / len(first),
        }
    # Of all vectors, not of the top alone.
    across_left, across_right = one.left.T @ other.left, other.right.T @ one.right
    inner = float(np.sum((one.values[:, None] * across_left * other.values) * across_right.T))
    columns |= {
        "cosine": inner / (norms[0] * norms[1]),
        "interference": _interference(other.values, across_right[:, :top], one.values[:top]),
        "interference_back": _interference(one.values, across_right[:top].T, other.values[:top]),
        "kept_first": 1 + inner / norms[0] ** 2,
        "kept_second": 1 + inner / norms[1] ** 2,
    }
    total = update_values(
        np.vstack([one.values[:, None] * one.right.T, other.values[:, None] * other.right.T]),
        np.hstack([one.left, other.left]),
        scaling=1.0,
    )
    columns |= {
        "sum_frobenius_norm": float(np.linalg.norm(total)),
        "sum_spectral_norm": float(total[0]),
        "sum_rank_90": float(energy_rank(total, 0.9)),
        "sum_rank_99": float(energy_rank(total, 0.99)),
    }
    return columns, {}


def _interference(acting: np.ndarray, across: np.ndarray, own: np.ndarray) -> float:
    # |U_2 V_1|_F / |U_1 V_1|_F: what the other update does to the inputs that one reads.
    return float(np.linalg.norm(acting[:, None] * across) / np.linalg.norm(own))
