"""PEFT methods by configuration alone; oracles: counts by hand, the base's own logits."""

import pytest
import torch
from peft import IA3Config, LNTuningConfig, PeftConfig, PrefixTuningConfig

from spectral_ft.adapters.plain import add_plain, count_trained
from spectral_ft.errors import PlanError
from tests.methods.small_bases import batch_for, frozen, logits, moved, seen, trained

CONFIGS = {
    "ia3": (lambda: IA3Config(task_type="CAUSAL_LM"), 2 * (4 + 4 + 24)),
    "ln_tuning": (lambda: LNTuningConfig(task_type="CAUSAL_LM"), 5 * 8),
    "prefix": (lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), 3 * 2 * 2 * 4),
}
"""What each trains of a Llama of 2 blocks: 8 wide, 24 inside, 4 wide keys and values."""


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_counted_without_weights_is_what_is_trained(name: str) -> None:
    config, expected = CONFIGS[name]
    assert count_trained(seen(frozen("llama")).blueprint(), config()) == expected
    adapted = add_plain(frozen("llama"), config(), expected=expected)
    assert sum(parameter.numel() for parameter in trained(adapted).values()) == expected


@pytest.mark.parametrize("name", CONFIGS)
def test_all_that_is_trained_gets_a_gradient_and_nothing_else_does(name: str) -> None:
    adapted = add_plain(frozen("llama"), CONFIGS[name][0]()).train()
    adapted(**batch_for(adapted)).loss.backward()
    assert {n for n, p in adapted.named_parameters() if p.grad is not None and p.grad.any()} == set(trained(adapted))


@pytest.mark.parametrize("name", ["ia3", "ln_tuning"])
def test_the_start_changes_no_logit_and_training_does(name: str) -> None:
    adapted = add_plain(frozen("llama"), CONFIGS[name][0]()).eval()
    assert torch.equal(logits(adapted), logits(frozen("llama")))
    assert not torch.allclose(logits(moved(adapted)), logits(frozen("llama")), atol=1e-3)


def test_another_count_is_refused() -> None:
    with pytest.raises(PlanError, match="the plan counts 41 trainable parameters, the adapted model has 40"):
        add_plain(frozen("llama"), LNTuningConfig(task_type="CAUSAL_LM"), expected=41)


@pytest.mark.parametrize(
    ("config", "kind", "model_type"),
    [
        (LNTuningConfig(task_type="SEQ_CLS"), "LN_TUNING", "bert"),
        (IA3Config(task_type="CAUSAL_LM"), "IA3", "gpt_neox_japanese"),
    ],
)
def test_an_architecture_that_peft_does_not_know_is_refused(config: PeftConfig, kind: str, model_type: str) -> None:
    model = frozen(model_type if model_type == "bert" else "phi3")
    model.config.model_type = model_type
    with pytest.raises(PlanError, match=rf"PEFT cannot put .*{kind} on model_type '{model_type}': .*target_modules\)"):
        add_plain(model, config)
