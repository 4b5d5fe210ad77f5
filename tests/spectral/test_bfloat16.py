"""Oracle: torch's own bfloat16, and a few bit patterns typed from the format."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.bfloat16 import widened
from tests.oracles import law


def test_all_bit_patterns_are_widened_as_torch_widens_them():
    bits = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    expected = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).to(torch.float32).numpy()
    found = widened(bits)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def test_patterns_typed_from_the_format():
    bits = np.array([0x3F80, 0xC000, 0x0001, 0x8000, 0x7F80, 0xFF80, 0x7FC0], dtype=np.uint16)
    expected = np.array([1, -2, 2.0**-133, -0.0, np.inf, -np.inf, np.nan], dtype=np.float32)
    np.testing.assert_array_equal(widened(bits), expected)
    assert np.signbit(widened(bits)[3])


@law
@given(st.floats(width=32, allow_nan=False))
def test_what_torch_rounds_to_bf16_comes_back(value):
    rounded = torch.tensor([value], dtype=torch.float32).to(torch.bfloat16)
    bits = rounded.view(torch.int16).numpy().view(np.uint16)
    assert widened(bits)[0] == rounded.item()


def test_a_view_that_is_not_contiguous_keeps_its_order_and_the_bits_are_left_as_they_were():
    bits = np.array([[0x3F80, 0x4000, 0x4040], [0x4080, 0x40A0, 0x40C0]], dtype=np.uint16)
    before = bits.copy()
    np.testing.assert_array_equal(widened(bits.T), [[1, 4], [2, 5], [3, 6]])
    np.testing.assert_array_equal(widened(bits[:, 1:]), [[2, 3], [5, 6]])
    np.testing.assert_array_equal(bits, before)


def test_other_types_pass_through_without_a_copy():
    for dtype in (np.float16, np.float32, np.float64):
        array = np.ones((2, 2), dtype=dtype)
        assert widened(array) is array
