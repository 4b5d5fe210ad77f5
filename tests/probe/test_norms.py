"""Oracle: the gradient itself, in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef

from spectral_ft.probe import norms
from tests.oracles import law

SIDES = st.integers(1, 40) | st.sampled_from([255, 256, 257, 600])


def drawn(tokens, d_in, d_out, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(tokens, d, generator=generator, dtype=torch.float64) for d in (d_in, d_out)]


@law
@given(tokens=SIDES, d_in=SIDES, d_out=SIDES)
def test_both_forms_give_the_norm_of_the_gradient(tokens, d_in, d_out):
    x, dy = drawn(tokens, d_in, d_out)
    expected = pytest.approx(float((dy.T @ x).square().sum()), rel=1e-9)
    for form in (norms.squared_norm_by_rows, norms.squared_norm_by_tokens, norms.squared_norm):
        found = form(x, dy)
        assert found.dtype == torch.float64 and float(found) == expected


@law
@given(tokens=SIDES, scale=st.floats(1e-3, 1e3))
def test_the_norm_scales_with_the_gradient_and_does_not_see_rotations(tokens, scale):
    x, dy = drawn(tokens, 30, 20)
    turn = torch.linalg.qr(drawn(30, 30, 1, seed=1)[0]).Q
    for form in (norms.squared_norm_by_rows, norms.squared_norm_by_tokens):
        assert float(form(x @ turn, scale * dy)) == pytest.approx(scale**2 * float(form(x, dy)), rel=1e-9)


@pytest.mark.parametrize(
    ("tokens", "d_in", "d_out", "form"),
    [(4, 64, 64, "tokens"), (512, 2048, 2048, "tokens"), (300, 8, 8, "rows"), (512, 384, 1024, "rows")],
)
def test_the_cheaper_form_is_taken(monkeypatch, tokens, d_in, d_out, form):
    taken = []
    for name in ("rows", "tokens"):
        monkeypatch.setattr(norms, f"squared_norm_by_{name}", lambda x, dy, name=name: taken.append(name))
    norms.squared_norm(torch.empty(tokens, d_in), torch.empty(tokens, d_out))
    assert taken == [form]


def test_no_block_is_as_large_as_the_gradient():
    largest = []

    class Watched(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result._base is None:
                largest.append(result.numel())
            return result

    for form, tokens, side in ((norms.squared_norm_by_rows, 8, 1024), (norms.squared_norm_by_tokens, 1024, 8)):
        x, dy = drawn(tokens, side, side)
        with Watched():
            form(x, dy)
    assert max(largest) == norms.ROWS * 1024


def test_what_is_kept_goes_as_soon_as_a_module_is_complete():
    squares = norms.SquaredNorms()
    for _ in range(2):
        first, second = (squares.watch("a", torch.ones(3, 4)) for _ in range(2))
        kept = []
        for add, complete in ((first, False), (second, True)):
            gradient = torch.ones(3, 5)
            kept.append(StorageWeakRef(gradient.untyped_storage()))
            add(gradient)
            del gradient
            assert [one.expired() for one in kept] == [complete] * len(kept)
        squares.end_batch()
    assert squares.means() == pytest.approx({"a": 36.0})  # the gradient is 6 everywhere


def test_half_precision_is_widened_first():
    squares = norms.SquaredNorms()
    squares.watch("a", torch.full((3, 4), 200.0, dtype=torch.float16))(torch.full((3, 5), 200.0, dtype=torch.float16))
    squares.end_batch()
    assert squares.means() == pytest.approx({"a": 120000.0**2})  # beyond float16's 65504
