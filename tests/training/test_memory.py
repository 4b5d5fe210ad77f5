"""Peaks of memory; oracle: arrays of known size."""

import numpy as np

from spectral_ft.training.memory import forget_peaks, peak_process_bytes

SIZE = 2**28


def test_a_peak_is_of_what_came_after_it_was_forgotten() -> None:
    forget_peaks()
    before = peak_process_bytes()
    held = np.ones(SIZE, dtype=np.uint8)
    largest = peak_process_bytes()
    assert largest - before >= 0.9 * SIZE
    del held
    assert abs(peak_process_bytes() - largest) < 0.05 * SIZE  # the kernel counts by batches of pages
    forget_peaks()
    assert peak_process_bytes() <= largest - 0.9 * SIZE
