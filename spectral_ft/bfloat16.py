"""bfloat16 without torch: numpy has no such type, so a bf16 array is its bits as uint16."""

import numpy as np


def widened(array: np.ndarray) -> np.ndarray:
    """Numbers that numpy can compute with.

    Args:
        array: Floats of any type, or the bits of bf16 as uint16.

    Returns:
        The array itself, or float32 of the same values where it held bf16.
    """
    if array.dtype != np.uint16:
        return array
    wide = array.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)
