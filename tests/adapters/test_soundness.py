"""Stored weights that are no numbers; oracle: one entry spoilt by hand."""

from pathlib import Path

import pytest
import torch

from spectral_ft.adapters.soundness import check_finite
from spectral_ft.errors import CheckpointError


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_one_entry_that_is_no_number_is_enough(number: str) -> None:
    stored = {"whole": torch.ones(2, 3), "spoilt": torch.full((2, 3), -1e38)}
    check_finite(stored, Path("adapter"))
    stored["spoilt"][1, 2] = float(number)
    with pytest.raises(CheckpointError, match=r"^adapter: spoilt holds NaN or infinite entries: its training diverged"):
        check_finite(stored, Path("adapter"))
