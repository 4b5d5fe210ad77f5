"""Adapters of a plan; oracles: the base's own logits, the merged weights, stock PEFT."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from spectral_ft.adapters.lora import add_lora, lora_config, lora_parameters, open_adapter
from spectral_ft.errors import CheckpointError, PlanError
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.types import AllocationPlan, MatrixAllocation
from tests.conftest import EMBEDDED

MATRICES = Checkpoint(EMBEDDED).matrices
RANKS = {matrix.name: (0, 2, 5)[number % 3] for number, matrix in enumerate(MATRICES)}
ALPHAS = {"q_proj": 3.0, "down_proj": 16.0}


def base() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32).requires_grad_(False).eval()


def mixed_plan(trainable: int | None = None) -> AllocationPlan:
    allocations = tuple(
        MatrixAllocation(name=m.name, rank=RANKS[m.name], lora_alpha=ALPHAS.get(m.type, 8.0)) for m in MATRICES
    )
    count = lora_parameters(RANKS, MATRICES) if trainable is None else trainable
    return AllocationPlan(allocations, count, count, 1_803_072)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(4, 160, (3, 20), generator=torch.Generator().manual_seed(0))


def trained(plan: AllocationPlan, tokens: torch.Tensor) -> PeftModel:
    """A few steps away from the start, so that B is not zero."""
    torch.manual_seed(0)
    model = add_lora(base(), plan, dropout=0.0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_fresh_adapters_change_no_logit(tokens: torch.Tensor) -> None:
    adapted = add_lora(base(), mixed_plan(), dropout=0.0).eval()
    assert torch.equal(adapted(tokens).logits, base()(tokens).logits)


def test_each_matrix_gets_its_own_rank_and_alpha() -> None:
    adapted = add_lora(base(), mixed_plan(), dropout=0.0)
    for allocation in mixed_plan().allocations:
        module = adapted.get_submodule(f"base_model.model.{allocation.name}")
        if allocation.rank:
            assert module.r["default"] == allocation.rank
            assert module.scaling["default"] == pytest.approx(allocation.lora_alpha / allocation.rank)
        else:
            assert not hasattr(module, "lora_A")


def test_only_adapters_are_trainable() -> None:
    adapted = add_lora(base(), mixed_plan(), dropout=0.0)
    assert all("lora_" in name for name, parameter in adapted.named_parameters() if parameter.requires_grad)


def test_a_saved_adapter_opens_in_stock_peft_with_the_same_logits(tokens: torch.Tensor, tmp_path: Path) -> None:
    model = trained(mixed_plan(), tokens)
    model.save_pretrained(tmp_path)
    reopened = PeftModel.from_pretrained(base(), tmp_path).eval()
    assert torch.equal(model(tokens).logits, reopened(tokens).logits)
    assert not torch.allclose(reopened(tokens).logits, base()(tokens).logits, atol=1e-3)


def test_merged_equals_unmerged(tokens: torch.Tensor) -> None:
    model = trained(mixed_plan(), tokens)
    before = model(tokens).logits
    merged = model.merge_and_unload()
    assert (merged(tokens).logits - before).abs().max() < 1e-4


def test_a_block_number_that_begins_another_is_not_confused() -> None:
    names = [f"model.layers.{block}.self_attn.q_proj" for block in (1, 10, 11)]
    ranks = dict(zip(names, (2, 3, 4), strict=True))
    plan = AllocationPlan(tuple(MatrixAllocation(name=n, rank=r, lora_alpha=8.0) for n, r in ranks.items()), 1, 1, 1)
    config = LlamaForCausalLM.config_class(
        vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=12, num_attention_heads=2
    )
    from peft import get_peft_model

    adapted = get_peft_model(LlamaForCausalLM(config), lora_config(plan, dropout=0.0))
    found = {n: m.r["default"] for n, m in adapted.named_modules() if hasattr(m, "lora_A")}
    assert found == {f"base_model.model.{name}": rank for name, rank in ranks.items()}


def test_a_plan_that_freezes_everything_is_refused() -> None:
    plan = AllocationPlan(tuple(MatrixAllocation(name=m.name, rank=0, lora_alpha=0.0) for m in MATRICES), 0, 0, 1)
    with pytest.raises(PlanError, match="freezes all 28 matrices"):
        lora_config(plan, dropout=0.0)


def test_a_plan_that_counts_wrong_is_refused() -> None:
    with pytest.raises(PlanError, match="counts 7 trainable parameters, the adapted model has"):
        add_lora(base(), mixed_plan(trainable=7), dropout=0.0)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, tokens: torch.Tensor) -> None:
    trained(mixed_plan(), tokens).save_pretrained(tmp_path)
    other = LlamaForCausalLM(
        LlamaForCausalLM.config_class(
            vocab_size=166, hidden_size=64, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2
        )
    )
    with pytest.raises(CheckpointError, match="could not be put on this base model"):
        open_adapter(other, tmp_path)
