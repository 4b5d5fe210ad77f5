"""What training moves; oracle: counts by hand."""

import pytest
import torch

from spectral_ft.adapters.counting import check_count, trained_parameters
from spectral_ft.errors import PlanError


def shared() -> torch.nn.Module:
    """Two linear modules of one weight of 15 numbers, 3 biases each; the first bias is frozen."""
    model = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Linear(5, 3))
    model[1].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    return model


def test_what_is_shared_counts_once_and_what_is_frozen_does_not() -> None:
    assert trained_parameters(shared()) == 15 + 3


@pytest.mark.parametrize("planned", [17, 19])
def test_another_count_is_refused(planned: int) -> None:
    check_count(shared(), 18)
    with pytest.raises(PlanError, match=f"the plan counts {planned} trainable parameters, the adapted model has 18"):
        check_count(shared(), planned)
