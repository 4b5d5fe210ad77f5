"""Oracle: matrices made from singular values that are typed here, and numpy's own decomposition and moments."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.spectral import decomposition
from spectral_ft.spectral.decomposition import Squared, decompose, singular_values, working_bytes
from tests.oracles import gaussian, law, rotation

TYPED = np.array([9.0, 4.0, 4.0, 0.5, 0.001])


def with_typed_values(rows: int, cols: int, typed: np.ndarray = TYPED) -> np.ndarray:
    core = np.zeros((rows, cols))
    np.fill_diagonal(core, typed)
    return rotation(rows, seed=1) @ core @ rotation(cols, seed=2)


def as_bf16(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bits of a matrix cut to bf16, and the same values as float32."""
    cut = matrix.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return (cut >> 16).astype(np.uint16), cut.view(np.float32)


def test_a_diagonal_matrix_gives_the_magnitudes_of_its_entries_in_descending_order():
    matrix = np.zeros((4, 6))
    np.fill_diagonal(matrix, [3.0, -7.0, 0.5, 2.0])
    np.testing.assert_allclose(singular_values(matrix), [7, 3, 2, 0.5], rtol=1e-15)


@pytest.mark.parametrize("shape", [(5, 5), (5, 11), (11, 5)])
def test_rotations_change_no_singular_value(shape):
    error = np.abs(singular_values(with_typed_values(*shape)) - TYPED)
    assert (error <= 10 * np.finfo(np.float64).eps * TYPED[0] ** 2 / TYPED).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(40, 40), (30, 90), (90, 30), (1, 7), (7, 1), (1, 1)])
def test_values_agree_with_numpys_decomposition(dtype, shape):
    matrix = gaussian(*shape, seed=3).astype(dtype)
    expected = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    found = singular_values(matrix)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("block_entries", [1, 64, 100, 1 << 20])
@pytest.mark.parametrize("shape", [(40, 40), (30, 97), (97, 30), (1, 250), (250, 1)])
def test_the_size_of_the_blocks_changes_nothing(shape, block_entries, monkeypatch):
    monkeypatch.setattr(decomposition, "BLOCK_ENTRIES", block_entries)
    bits, matrix = as_bf16(gaussian(*shape, seed=6))
    for weights in (bits, matrix, matrix.astype(np.float64)):
        found = decompose(weights)
        np.testing.assert_allclose(
            found.singular_values, np.linalg.svd(matrix.astype(np.float64), compute_uv=False), rtol=1e-9
        )
        assert found.mean == pytest.approx(matrix.mean(dtype=np.float64), rel=1e-12)
        assert found.std == pytest.approx(matrix.std(dtype=np.float64, ddof=1), rel=1e-12)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("shape", [(30, 70), (70, 30)])
def test_the_bits_of_bf16_give_exactly_what_their_values_give(shape, precision):
    bits, values = as_bf16(gaussian(*shape, seed=7))
    found, expected = decompose(bits, precision=precision), decompose(values, precision=precision)
    np.testing.assert_array_equal(found.singular_values, expected.singular_values)
    assert (found.mean, found.std, found.precision) == (expected.mean, expected.std, expected.precision)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(30, 70), (70, 30), (1, 9)])
def test_a_transposed_or_strided_view_is_read_as_what_it_shows(shape, dtype):
    matrix = gaussian(2 * shape[0], 3 * shape[1], seed=8).astype(dtype)
    for view in (matrix[::2, ::3], matrix[::2, ::3].T, np.asfortranarray(matrix[::2, ::3])):
        expected = np.linalg.svd(view.astype(np.float64), compute_uv=False)
        np.testing.assert_allclose(decompose(view).singular_values, expected, rtol=1e-9)


@law
@given(st.integers(-900, 900))
def test_no_scale_overflows_or_underflows(exponent):
    matrix = gaussian(4, 6, seed=4)
    scaled, plain = decompose(np.ldexp(matrix, exponent)), decompose(matrix)
    np.testing.assert_array_equal(scaled.singular_values, np.ldexp(plain.singular_values, exponent))
    assert scaled.mean == np.ldexp(plain.mean, exponent)
    assert scaled.std == np.ldexp(plain.std, exponent)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("exponent", [-100, -70, 70, 120])
def test_no_scale_of_float32_weights_overflows_or_underflows(exponent, precision):
    # the squares of the entries lie outside of float32
    matrix = gaussian(20, 60, seed=4).astype(np.float32)
    scaled = decompose(np.ldexp(matrix, exponent), precision=precision)
    plain = decompose(matrix, precision=precision)
    assert scaled.precision == plain.precision == precision
    np.testing.assert_allclose(scaled.singular_values, np.ldexp(plain.singular_values, exponent), rtol=1e-12)
    assert scaled.std == pytest.approx(np.ldexp(plain.std, exponent), rel=1e-12)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("exponent", [-200, 200])
def test_float32_precision_is_right_for_float64_weights_outside_of_its_range(exponent):
    matrix = gaussian(20, 60, seed=4)
    found = decompose(np.ldexp(matrix, exponent), precision="float32")
    np.testing.assert_allclose(np.ldexp(found.singular_values, -exponent), singular_values(matrix), rtol=1e-5)


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_a_zero_matrix_has_zero_singular_values(precision):
    found = decompose(np.zeros((3, 5)), precision=precision)
    np.testing.assert_array_equal(found.singular_values, np.zeros(3))
    assert (found.mean, found.std) == (0, 0)


def test_rank_deficiency_never_gives_a_nan_or_a_negative_value():
    s = singular_values(np.outer(np.arange(1.0, 41), np.arange(1.0, 61)))
    assert s[0] == pytest.approx(np.sqrt((np.arange(1, 41) ** 2).sum() * (np.arange(1, 61) ** 2).sum()))
    assert ((s[1:] >= 0) & (s[1:] < 1e-6 * s[0])).all()


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16])
def test_the_matrix_is_left_as_it_was(dtype, precision):
    bits, values = as_bf16(gaussian(5, 5, seed=5))
    matrix = bits if dtype == np.uint16 else values.astype(dtype)
    before = matrix.copy()
    decompose(matrix, precision=precision)
    np.testing.assert_array_equal(matrix, before)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint16])
def test_entries_that_are_no_numbers_are_counted(dtype, precision, monkeypatch):
    matrix = np.array([[1.0, np.nan, 2.0], [-np.inf, 0.0, 3.0]])
    weights = as_bf16(matrix)[0] if dtype == np.uint16 else matrix.astype(dtype)
    for block_entries in (1 << 20, 2):
        monkeypatch.setattr(decomposition, "BLOCK_ENTRIES", block_entries)
        for view in (weights, weights.T):
            with pytest.raises(ValueError, match="2 of 6 entries are NaN or infinite"):
                decompose(view, precision=precision)


@pytest.mark.parametrize("entry", [np.nan, np.inf, -np.inf])
def test_one_infinite_entry_is_enough(entry):
    weights = gaussian(30, 20, seed=1).astype(np.float32)
    weights[29, 19] = entry
    with pytest.raises(ValueError, match="1 of 600 entries are NaN or infinite"):
        decompose(weights)


@pytest.mark.parametrize("shape", [(40, 120), (120, 40), (1, 60)])
def test_well_conditioned_matrices_are_done_in_float32_where_it_is_asked_for(shape):
    weights = gaussian(*shape, seed=9).astype(np.float32)
    found = decompose(weights, precision="float32")
    assert found.precision == "float32"
    assert found.singular_values.dtype == np.float64
    expected = np.linalg.svd(weights.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(found.singular_values, expected, rtol=1e-5)
    assert not np.array_equal(found.singular_values, singular_values(weights))
    assert found.mean == pytest.approx(weights.mean(dtype=np.float64), rel=1e-9)
    assert found.std == pytest.approx(weights.std(dtype=np.float64, ddof=1), rel=1e-5)


@pytest.mark.parametrize(("condition", "precision"), [(100, "float32"), (600, "float32"), (1600, "float64")])
def test_float32_is_used_up_to_a_condition_number_of_a_thousand(condition, precision):
    weights = with_typed_values(40, 60, np.linspace(condition, 1, 40))
    found = decompose(weights, precision="float32")
    assert found.precision == precision
    assert found.singular_values[-1] == pytest.approx(1, rel=1e-9 if precision == "float64" else 0.05)


@pytest.mark.parametrize("smallest", [1e-2, 1e-4, 1e-7, 0.0])
def test_ill_conditioned_matrices_are_done_in_float64_after_all(smallest):
    weights = with_typed_values(40, 60, np.append(np.linspace(50, 40, 39), smallest))
    found, expected = decompose(weights, precision="float32"), decompose(weights)
    assert found.precision == expected.precision == "float64"
    np.testing.assert_array_equal(found.singular_values, expected.singular_values)
    assert (found.mean, found.std) == (expected.mean, expected.std)


@pytest.mark.parametrize(("smallest", "asked"), [(2e-3, ["float32"]), (5e-4, ["float32", "float64"])])
def test_another_solver_is_asked_in_the_precision_that_is_needed(smallest, asked):
    calls = []

    def typed(weights: np.ndarray, *, scale: float, dtype: np.dtype) -> Squared:
        # of entries 3 and 5 over the scale
        calls.append(dtype.name)
        return Squared(np.array([smallest**2, 1.0]), 34 / scale**2, 8 / scale)

    found = decompose(np.array([[3.0, 5.0]]), precision="float32", solver=typed)
    assert calls == asked
    assert found.precision == asked[-1]
    np.testing.assert_allclose(found.singular_values, np.array([1, smallest]) * 4)  # in units of the scale
    assert (found.mean, found.std) == (pytest.approx(4), pytest.approx(np.sqrt(2)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, -0.5, 30.0])
@pytest.mark.parametrize("shape", [(13, 7), (7, 13), (1, 5), (5, 1)])
def test_moments_are_numpys(shape, offset, dtype):
    weights = (gaussian(*shape, seed=10) + offset).astype(dtype)
    found, wide = decompose(weights), weights.astype(np.float64)
    assert found.mean == pytest.approx(wide.mean(), rel=1e-12)
    assert found.std == pytest.approx(wide.std(ddof=1), rel=1e-10)


def test_a_single_entry_has_a_mean_and_no_spread():
    found = decompose(np.array([[-0.3]]))
    assert (found.mean, found.std) == (pytest.approx(-0.3), 0)
    np.testing.assert_allclose(found.singular_values, [0.3])


def test_equal_entries_have_no_spread():
    spreads = {(value, rows): decompose(np.full((rows, 60), value)).std for value in (0.1, 3e-5) for rows in (5, 40)}
    assert spreads == dict.fromkeys(spreads, 0)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(300, 900), (900, 300)])
def test_no_more_memory_is_taken_than_is_promised(shape, dtype, monkeypatch):
    monkeypatch.setattr(decomposition, "BLOCK_ENTRIES", 1 << 15)
    bits, values = as_bf16(gaussian(*shape, seed=11))
    weights = bits if dtype == np.uint16 else values.astype(dtype)
    assert peak(weights, "float64") <= working_bytes(shape)
    assert peak(weights, "float32") <= working_bytes(shape)


def test_falling_back_to_float64_takes_no_more_memory_than_is_promised(monkeypatch):
    monkeypatch.setattr(decomposition, "BLOCK_ENTRIES", 1 << 12)
    weights = gaussian(1200, 1200, seed=12)
    weights[1] = weights[0]
    assert peak(weights, "float32") <= working_bytes(weights.shape)


def peak(weights: np.ndarray, precision: decomposition.Precision) -> int:
    tracemalloc.start()
    try:
        decompose(weights, precision=precision)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
