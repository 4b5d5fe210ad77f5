"""Prefix tuning, IA3 and norm tuning as methods; oracles: counts by hand, parameters by name."""

import pytest
import torch

from spectral_ft.errors import PlanError
from spectral_ft.methods.ia3 import Ia3
from spectral_ft.methods.ln_tuning import LnTuning
from spectral_ft.methods.prefix import Prefix
from tests.methods.small_bases import adapt, frozen, logits, planned, seen, trained

BASE = seen(frozen("llama"))


def test_a_prefix_holds_keys_and_values_of_every_block() -> None:
    """2 blocks, keys and values of 2 heads of 2 numbers, 7 tokens."""
    assert planned(Prefix("prefix", 7), BASE).trainable_parameters == 2 * 2 * 2 * 2 * 7


def test_ia3_scales_keys_values_and_the_input_of_the_second_feed_forward_matrix() -> None:
    """2 blocks: 4 keys, 4 values, 24 inner activations; no logit changes at the start."""
    assert planned(Ia3("ia3", None, None), BASE).trainable_parameters == 2 * (4 + 4 + 24)
    adapted = adapt("ia3", frozen("llama"), BASE).model.eval()
    assert torch.equal(logits(adapted), logits(frozen("llama")))
    kinds = {name.split(".ia3_l")[0].rpartition(".")[2] for name in trained(adapted)}
    assert kinds == {"k_proj", "v_proj", "down_proj"}


def test_ia3_takes_modules_by_name() -> None:
    method = Ia3("ia3", ["q_proj", "up_proj"], ["up_proj"])
    assert planned(method, BASE).trainable_parameters == 2 * (8 + 8)


def test_norm_tuning_trains_the_norms() -> None:
    """2 norms of 8 numbers in each of 2 blocks, one at the end."""
    assert planned(LnTuning("ln_tuning", None), BASE).trainable_parameters == 5 * 8
    adapted = adapt("ln_tuning", frozen("llama"), BASE).model.eval()
    assert all("norm" in name for name in trained(adapted))
    assert torch.equal(logits(adapted), logits(frozen("llama")))


def test_norm_tuning_takes_modules_by_name() -> None:
    bert = seen(frozen("bert"))
    with pytest.raises(PlanError, match=r"LN_TUNING on model_type 'bert': .* \(method\.target_modules\)"):
        planned(LnTuning("ln_tuning", None), bert)
    # 1 + 2 x 2 norms of 8 weights and 8 biases, and the head: 2 x 8 weights, 2 biases.
    plan = planned(LnTuning("ln_tuning", ["LayerNorm"]), bert)
    assert plan.trainable_parameters == 5 * 16 + 18


@pytest.mark.parametrize("method", [Ia3("ia3", None, None), Prefix("prefix", 2)], ids=["ia3", "prefix"])
def test_a_classifier_s_head_is_trained_beside(method: Ia3 | Prefix) -> None:
    adapted = adapt(method.name, frozen("bert"), method=method).model
    assert any("classifier" in name and name.endswith("bias") for name in trained(adapted))
