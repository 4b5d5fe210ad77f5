"""Oracles: the full product's SVD, brute force over all ranks, planted spikes, weighted norms with whole moments."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_ft.spectral.eigenvalues import Undefined
from spectral_ft.spectral.updates import (
    RIDGE,
    Moment,
    balanced_factors,
    budget_ranks,
    decomposed_update,
    energy_rank,
    noise_edge,
    pair_columns,
    update_columns,
    update_values,
    weighted_core,
)


def factors(rank: int, rows: int, cols: int, seed: int = 0, decay: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    a = generator.standard_normal((rank, cols)) * decay ** np.arange(rank)[:, None]
    return a, generator.standard_normal((rows, rank))


@pytest.mark.parametrize(("rank", "rows", "cols"), [(4, 30, 20), (1, 7, 9), (12, 10, 40), (16, 50, 11), (8, 8, 8)])
@pytest.mark.parametrize("scaling", [2.0, -0.25])
def test_the_values_are_those_of_the_whole_product(rank: int, rows: int, cols: int, scaling: float) -> None:
    a, b = factors(rank, rows, cols)
    product = scaling * b @ a
    expected = np.linalg.svd(product, compute_uv=False)[: min(rank, rows, cols)]
    assert update_values(a, b, scaling=scaling) == pytest.approx(expected, abs=1e-10 * expected[0])
    found = decomposed_update(a, b, scaling=scaling)
    assert (found.left * found.values) @ found.right.T == pytest.approx(product, abs=1e-10 * expected[0])
    size = len(found.values)
    assert found.left.T @ found.left == pytest.approx(np.eye(size), abs=1e-10)
    assert found.right.T @ found.right == pytest.approx(np.eye(size), abs=1e-10)


def test_small_singular_values_are_not_lost_to_the_square() -> None:
    a, b = np.diag([1.0, 1e-9]) @ np.eye(2, 20), np.eye(30, 2)
    assert update_values(a, b, scaling=1.0) == pytest.approx([1.0, 1e-9], rel=1e-6)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12), st.floats(0.01, 1))
def test_the_energy_rank_is_the_least(found: list[float], energy: float) -> None:
    values = np.sort(found)[::-1]
    rank, squares = energy_rank(values, energy), values**2
    if not squares.sum() > 0:
        assert rank == 0
        return
    assert squares[:rank].sum() >= (energy - 1e-9) * squares.sum()
    assert squares[: rank - 1].sum() < energy * squares.sum()


def test_the_columns_of_known_values() -> None:
    values = np.array([3.0, 1.0, 0.0])
    columns, reasons = update_columns(values, (10, 20), rank=4)
    assert columns["frobenius_norm"] == pytest.approx(np.sqrt(10)) and columns["spectral_norm"] == 3
    assert [columns[f"rank_{share}"] for share in (90, 95, 99)] == [1, 2, 2]
    assert columns["stable_rank"] == pytest.approx(10 / 9) and columns["num_zero"] == 1
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert columns["used"] == pytest.approx(np.exp(entropy) / 4)
    assert columns["noise_edge"] is None and {"noise_edge", "num_spikes"} <= set(reasons)


def test_a_zero_update_has_reasons_and_no_rank() -> None:
    columns, reasons = update_columns(np.zeros(9), (10, 20), rank=9)
    assert columns["rank_99"] == 0 and columns["num_zero"] == 9
    assert columns["stable_rank"] is None and set(reasons) >= {"stable_rank", "used", "noise_edge"}


@pytest.mark.parametrize(("rank", "shape"), [(16, (200, 120)), (32, (60, 300)), (24, (24, 90))])
def test_noise_has_few_spikes_and_planted_ones_are_counted(rank: int, shape: tuple[int, int]) -> None:
    generator, above = np.random.default_rng(7), 0
    for _ in range(60):
        a, b = generator.standard_normal((rank, shape[1])), generator.standard_normal((shape[0], rank))
        values = update_values(a, b, scaling=1.0)
        above += int(values[0] > noise_edge(values, shape, rank=rank))
    assert above <= 10  # one in twenty is expected; P(more than 10 of 60) is 1e-4
    a[:2] *= 8
    values = update_values(a, b, scaling=1.0)
    assert int(np.sum(values > noise_edge(values, shape, rank=rank))) == 2


def test_the_noise_edge_does_not_depend_on_how_the_product_is_split() -> None:
    a, b = factors(12, 60, 40, decay=1.0)
    turn = np.random.default_rng(1).standard_normal((12, 12))
    one, other = (update_values(*pair, scaling=1.0) for pair in ((a, b), (turn @ a, b @ np.linalg.inv(turn))))
    assert noise_edge(one, (60, 40), rank=12) == pytest.approx(noise_edge(other, (60, 40), rank=12), rel=1e-8)


def test_a_rank_deficient_update_has_no_noise_edge() -> None:
    a, b = factors(10, 40, 30)
    b[:, 5:] = 0
    with pytest.raises(Undefined, match="5 of 10"):
        noise_edge(update_values(a, b, scaling=1.0), (40, 30), rank=10)


def kept(values: dict[str, np.ndarray], ranks: dict[str, int]) -> float:
    return float(sum(np.sum(values[name][:rank] ** 2) for name, rank in ranks.items()))


def brute_force(values: dict[str, np.ndarray], costs: dict[str, int], budget: int) -> float:
    best = 0.0
    for ranks in itertools.product(*(range(len(own) + 1) for own in values.values())):
        named = dict(zip(values, ranks, strict=True))
        if sum(costs[name] * rank for name, rank in named.items()) <= budget:
            best = max(best, kept(values, named))
    return best


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_the_cut_is_optimal_for_equal_shapes_and_within_a_rank_step_otherwise(seed: int, equal: bool) -> None:
    generator = np.random.default_rng(seed)
    values = {name: np.sort(generator.exponential(size=generator.integers(1, 5)))[::-1] for name in "abc"}
    costs = {name: 7 if equal else int(generator.integers(2, 12)) for name in "abc"}
    full = sum(costs[name] * len(own) for name, own in values.items())
    budget = int(generator.integers(min(costs.values()), full + 3))
    ranks = budget_ranks(values, costs, budget)
    spent = sum(costs[name] * rank for name, rank in ranks.items())
    assert spent <= budget
    buyable = [costs[name] for name, rank in ranks.items() if rank < len(values[name])]
    assert not buyable or budget - spent < min(buyable)
    best, found = brute_force(values, costs, budget), kept(values, ranks)
    step = max(float(own[0] ** 2) for own in values.values())
    assert found == pytest.approx(best, rel=1e-12) if equal else best - found <= step + 1e-12


def test_zeros_are_never_bought_and_the_least_ranks_are_kept() -> None:
    values = {"a": np.array([2.0, 0.0]), "b": np.array([1e-3, 0.0])}
    assert budget_ranks(values, {"a": 3, "b": 3}, 100) == {"a": 1, "b": 1}
    assert budget_ranks(values, {"a": 3, "b": 3}, 3, least={"b": 1}) == {"a": 0, "b": 1}


@pytest.mark.parametrize(("budget", "least"), [(2, None), (5, {"a": 1, "b": 1})])
def test_a_budget_below_the_least_is_refused(budget: int, least: dict[str, int] | None) -> None:
    with pytest.raises(ValueError, match=f"{budget} parameters"):
        budget_ranks({"a": np.ones(2), "b": np.ones(2)}, {"a": 3, "b": 3}, budget, least=least)


def moment(vectors: np.ndarray, directions: np.ndarray) -> Moment:
    inside = vectors @ directions
    return Moment(inside.T @ inside, float(np.sum(vectors**2)), vectors.shape[1])


@pytest.mark.parametrize("weighting", ["none", "inputs", "fisher"])
@pytest.mark.parametrize("tokens", [400, 6])
def test_the_weighted_cut_is_that_of_the_whole_moments(weighting: str, tokens: int) -> None:
    a, b = factors(5, 18, 14, seed=3)
    update, product = decomposed_update(a, b, scaling=0.5), 0.5 * b @ a
    generator = np.random.default_rng(4)
    x = generator.standard_normal((tokens, 14)) * np.linspace(0.1, 5, 14)
    g = generator.standard_normal((tokens, 18)) * np.linspace(3, 0.2, 18)

    def root(vectors: np.ndarray) -> np.ndarray:
        whole = vectors.T @ vectors + RIDGE * np.sum(vectors**2) / vectors.shape[1] * np.eye(vectors.shape[1])
        values, u = np.linalg.eigh(whole)
        return (u * np.sqrt(values)) @ u.T

    inward = root(x) if weighting != "none" else np.eye(14)
    outward = root(g) if weighting == "fisher" else np.eye(18)
    core = weighted_core(
        update,
        inputs=moment(x, update.right) if weighting != "none" else None,
        outputs=moment(g, update.left) if weighting == "fisher" else None,
    )
    u, values, vt = np.linalg.svd(outward @ product @ inward)
    assert core.values == pytest.approx(values[:5], rel=1e-9)
    for rank in range(1, 6):
        expected = np.linalg.inv(outward) @ (u[:, :rank] * values[:rank]) @ vt[:rank] @ np.linalg.inv(inward)
        new_a, new_b = balanced_factors(update, rank, scaling=0.5, core=core)
        assert 0.5 * new_b @ new_a == pytest.approx(expected, abs=1e-9)
        assert new_a @ new_a.T == pytest.approx(new_b.T @ new_b, abs=1e-9)


def test_what_was_never_seen_weighs_nothing() -> None:
    update = decomposed_update(*factors(3, 9, 8), scaling=1.0)
    core = weighted_core(update, inputs=Moment(np.zeros((3, 3)), 0.0, 8))
    assert not core.values.any()


@pytest.mark.parametrize("scaling", [2.0, -3.0])
def test_the_whole_rank_is_the_same_product(scaling: float) -> None:
    a, b = factors(4, 12, 15)
    new_a, new_b = balanced_factors(decomposed_update(a, b, scaling=scaling), 4, scaling=scaling)
    assert new_b @ new_a == pytest.approx(b @ a, abs=1e-10)


def test_a_pair_is_what_the_whole_matrices_say() -> None:
    one, other = (factors(3, 20, 16, seed=seed) for seed in (1, 2))
    whole = [b @ a for a, b in (one, other)]
    columns, reasons = pair_columns(*(decomposed_update(*pair, scaling=1.0) for pair in (one, other)))
    assert reasons == {}
    inner = float(np.sum(whole[0] * whole[1]))
    norms = [np.linalg.norm(each) for each in whole]
    assert columns["cosine"] == pytest.approx(inner / norms[0] / norms[1])
    assert columns["kept_first"] == pytest.approx(1 + inner / norms[0] ** 2)
    total = np.linalg.svd(whole[0] + whole[1], compute_uv=False)
    assert columns["sum_frobenius_norm"] == pytest.approx(np.linalg.norm(total))
    assert columns["sum_spectral_norm"] == pytest.approx(total[0])
    top = int(columns["top"] or 0)
    v = [np.linalg.svd(each)[2][:top].T for each in whole]
    assert columns["interference"] == pytest.approx(np.linalg.norm(whole[1] @ v[0]) / np.linalg.norm(whole[0] @ v[0]))
    back = np.linalg.norm(whole[0] @ v[1]) / np.linalg.norm(whole[1] @ v[1])
    assert columns["interference_back"] == pytest.approx(back)
    assert columns["overlap_right"] == pytest.approx(np.linalg.norm(v[0].T @ v[1]) ** 2 / top)


def test_an_update_and_its_opposite_cancel() -> None:
    a, b = factors(3, 20, 16)
    columns, _ = pair_columns(decomposed_update(a, b, scaling=1.0), decomposed_update(a, b, scaling=-1.0))
    assert columns["cosine"] == pytest.approx(-1) and columns["mean_angle_left"] == pytest.approx(0, abs=1e-7)
    assert columns["sum_frobenius_norm"] == pytest.approx(0, abs=1e-12)
    assert columns["kept_first"] == pytest.approx(0, abs=1e-12) and columns["interference"] == pytest.approx(1)


def test_a_zero_update_has_no_pair() -> None:
    a, b = factors(3, 20, 16)
    full = pair_columns(decomposed_update(a, b, scaling=1.0), decomposed_update(a, b, scaling=1.0))[0]
    columns, reasons = pair_columns(decomposed_update(a, b, scaling=1.0), decomposed_update(a, 0 * b, scaling=1.0))
    assert set(columns) == set(reasons) == set(full) and set(columns.values()) == {None}
