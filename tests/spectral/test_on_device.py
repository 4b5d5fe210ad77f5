"""Oracle: LAPACK on the same matrices, and torch's own singular values."""

import numpy as np
import pytest
import torch

from spectral_ft.spectral import on_device
from spectral_ft.spectral.decomposition import decompose
from spectral_ft.spectral.on_device import with_torch
from tests.oracles import gaussian

SHAPES = [(30, 7), (7, 30), (12, 12), (1, 9), (9, 1)]


@pytest.fixture(params=["one piece", "many pieces"])
def solver(request, monkeypatch):
    if request.param == "many pieces":
        monkeypatch.setattr(on_device, "BLOCK_ENTRIES", 20)
    return with_torch("cpu")


def agree(weights, solver, *, tolerance=1e-10, **options):
    found, expected = decompose(weights, solver=solver, **options), decompose(weights)
    np.testing.assert_allclose(
        found.singular_values, expected.singular_values, rtol=tolerance, atol=tolerance * expected.singular_values[0]
    )
    assert found.mean == pytest.approx(expected.mean, rel=tolerance, abs=tolerance)
    assert found.std == pytest.approx(expected.std, rel=tolerance, abs=tolerance)
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_floats_of_every_type_and_shape_agree_with_lapack(shape, dtype, solver):
    weights = gaussian(*shape, seed=1).astype(dtype)
    found = agree(weights, solver)
    wide = torch.from_numpy(weights.astype(np.float64))
    assert found.singular_values == pytest.approx(torch.linalg.svdvals(wide).numpy(), rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_of_bfloat16_agree_with_lapack(shape, solver):
    values = torch.from_numpy(gaussian(*shape, seed=2)).to(torch.bfloat16)
    found = agree(values.view(torch.uint16).numpy(), solver)
    assert found.singular_values == pytest.approx(torch.linalg.svdvals(values.double()).numpy(), rel=1e-9)


@pytest.mark.parametrize("shape", [(60, 20), (20, 60)])
def test_float32_is_near_and_says_so(shape, solver):
    found = agree(gaussian(*shape, seed=3), solver, precision="float32", tolerance=1e-4)
    assert found.precision == "float32"


def test_float32_is_given_up_where_it_is_not_good_enough(solver):
    weights = np.diag([1.0, 1e-5, 1e-6])
    found = agree(weights, solver, precision="float32")
    assert found.precision == "float64"


def test_weights_turned_in_memory_or_read_only_are_taken(solver):
    turned = gaussian(8, 5, seed=4).T
    agree(turned, solver)
    fixed = gaussian(8, 5, seed=4)
    fixed.flags.writeable = False
    agree(fixed, solver)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_entries_whose_squares_do_not_fit_agree_with_lapack(scale, solver):
    found = decompose(gaussian(6, 9, seed=5) * scale, solver=solver).singular_values
    np.testing.assert_allclose(found, decompose(gaussian(6, 9, seed=5)).singular_values * scale, rtol=1e-10)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_what_is_not_finite_is_counted(value, dtype, solver):
    weights = gaussian(6, 9, seed=6).astype(dtype)
    weights[2, 3:5] = value
    with pytest.raises(ValueError, match="2 of 54 entries are NaN or infinite"):
        decompose(weights, solver=solver)


def test_the_weights_are_left_alone(solver):
    weights = gaussian(6, 9, seed=7)
    before = weights.copy()
    decompose(weights, solver=solver)
    np.testing.assert_array_equal(weights, before)


def test_the_smallest_singular_value_of_a_badly_conditioned_matrix_is_right():
    left, _, right = np.linalg.svd(gaussian(60, 80, seed=9), full_matrices=False)
    typed = np.append(np.linspace(2, 1, 59), 1e-5)
    found = decompose((left * typed) @ right, solver=with_torch("cpu")).singular_values
    assert found[-1] == pytest.approx(1e-5, rel=1e-9)


def test_what_does_not_converge_stays_as_good_as_the_gram_matrix_has_it():
    left, _, right = np.linalg.svd(gaussian(200, 200, seed=9))
    typed = np.geomspace(1, 1e-5, 200)
    found = decompose((left * typed) @ right, solver=with_torch("cpu")).singular_values
    assert found[-1] == pytest.approx(1e-5, rel=1e-4)
