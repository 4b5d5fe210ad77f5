"""How much slower a CPU multiplies bfloat16 than float32: 30 to 50 times where it has no units for it."""

import time

import torch

SIDE, REPEATS = 256, 3
WORTH_SAYING = 1.5


def slowdown(dtype: torch.dtype) -> float:
    """Time of a matrix product in a dtype over that in float32, on this CPU.

    Args:
        dtype: Of the product.

    Returns:
        The ratio of the best of three each, after one to warm up.
    """
    return _seconds(dtype) / _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    matrix = torch.ones(SIDE, SIDE, dtype=dtype)
    matrix @ matrix
    best = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - began)
    return best
