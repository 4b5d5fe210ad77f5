"""A LoRA layer read; oracle: the weight that PEFT merges."""

import numpy as np
import pytest

from spectral_ft.adapters.lora_layer import update_of
from spectral_ft.errors import PlanError
from tests.adapters.resizable import BEFORE, OUT, UP, adapted, layer_of, small


def test_the_update_is_what_merging_adds() -> None:
    model = adapted(small(), BEFORE)
    weight = layer_of(model, UP).base_layer.weight.detach().numpy().copy()
    update = update_of(model, UP)
    assert update.dtype == np.float64 and update.shape == (24, 16)
    merged = model.merge_and_unload().get_submodule(UP).weight.detach().numpy()
    np.testing.assert_allclose(merged - weight, update, atol=1e-14)


def test_a_matrix_without_adapter_has_no_update() -> None:
    model = adapted(small(), BEFORE)
    for name in (OUT, "model.layers.9.mlp.up_proj"):
        with pytest.raises(PlanError, match=f"{name} has no LoRA adapter, so it has no update"):
            update_of(model, name)
