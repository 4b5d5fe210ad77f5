"""Resizing that is refused; oracles: the sentence, and the model, the optimizer and the configuration as they were."""

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from spectral_ft.adapters.lora_layer import update_of
from spectral_ft.adapters.resize import resize
from spectral_ft.errors import PlanError
from spectral_ft.types import MatrixAllocation
from tests.adapters.resizable import (
    BEFORE,
    OUT,
    UP,
    Allocations,
    Q,
    V,
    adapted,
    allocated,
    factors,
    layer_of,
    logits,
    members,
    small,
    step,
    trained_by,
)


def grouped(plan: Allocations, name: str) -> Allocations:
    return tuple(
        MatrixAllocation(a.name, a.rank, a.lora_alpha, a.lr_multiplier, "q/0", "AB") if a.name == name else a
        for a in plan
    )


REFUSED: dict[str, tuple[Allocations, Allocations, str]] = {
    "rank": (
        BEFORE,
        allocated({UP: (17, 8.0)}),
        r"rank 17 of .*mlp.up_proj is above its smaller side: take at most 16",
    ),
    "rank of a new one": (BEFORE, allocated({OUT: (17, 8.0)}), r"rank 17 of .*o_proj is above .* take at most 16"),
    "group before": (grouped(BEFORE, Q), BEFORE, r"q_proj shares factors in group q/0, and shared factors cannot"),
    "group after": (BEFORE, grouped(allocated({Q: (6, 8.0)}), Q), r"q_proj shares factors in group q/0"),
    "frozen group": (grouped(BEFORE, Q), allocated({V: (4, 8.0), UP: (4, 8.0)}), r"q_proj shares factors in group q/0"),
    "alpha": (BEFORE, allocated({Q: (4, 0.0)}), r"lora_alpha=0 would switch the adapter of .*q_proj off"),
    "frozen with another rank": (
        BEFORE,
        allocated({Q: (5, 8.0, 0.0)}),
        r"q_proj is to be frozen \(lr_multiplier=0\) with rank 5, lora_alpha 8, but has rank 4, lora_alpha 8",
    ),
    "frozen without adapter": (
        BEFORE,
        allocated({OUT: (5, 8.0, 0.0)}),
        r"o_proj is to be frozen .* but has no adapter",
    ),
    "another rank before": (
        allocated({Q: (5, 8.0), V: (4, 8.0), UP: (4, 8.0)}),
        BEFORE,
        r"before says of .*q_proj: rank 5, lora_alpha 8, trained; the model has rank 4, lora_alpha 8, trained",
    ),
    "another alpha before": (
        allocated({Q: (4, 7.0), V: (4, 8.0), UP: (4, 8.0)}),
        BEFORE,
        r"lora_alpha 7, trained; the",
    ),
    "frozen before": (allocated({Q: (4, 8.0, 0.0), V: (4, 8.0), UP: (4, 8.0)}), BEFORE, r"8, frozen; the model has"),
    "none before": (
        allocated({V: (4, 8.0), UP: (4, 8.0)}),
        BEFORE,
        r"q_proj: no trained adapter; the model has rank 4",
    ),
    "one more before": (
        allocated({Q: (4, 8.0), V: (4, 8.0), UP: (4, 8.0), OUT: (4, 8.0)}),
        BEFORE,
        r"before says of .*o_proj: rank 4, lora_alpha 8, trained; the model has no adapter",
    ),
    "other names": (BEFORE, BEFORE[1:], r"1 matrices are in one of the two plans only, such as .*q_proj"),
    "no linear module": (
        (*BEFORE, MatrixAllocation(name="model.norm", rank=0, lora_alpha=0.0)),
        (*BEFORE, MatrixAllocation(name="model.norm", rank=2, lora_alpha=4.0)),
        r"model.norm is a LlamaRMSNorm, no linear module",
    ),
    "not there": (
        (*BEFORE, MatrixAllocation(name="model.layers.9.mlp", rank=0, lora_alpha=0.0)),
        (*BEFORE, MatrixAllocation(name="model.layers.9.mlp", rank=2, lora_alpha=4.0)),
        r"the model has no module model.layers.9.mlp",
    ),
    "no group of the optimizer": (
        BEFORE,
        allocated({Q: (6, 8.0), V: (4, 8.0, 0.25)}),
        r"v_proj asks for lr_multiplier=0.25, the optimizer has groups for 1 only",
    ),
    "no group for a new one": (BEFORE, allocated({OUT: (6, 8.0, 0.5)}), r"o_proj asks for lr_multiplier=0.5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_anything_changes(case: str) -> None:
    before, after, message = REFUSED[case]
    model = adapted(small(), BEFORE)
    optimizer = trained_by(model)
    was, held, config = logits(model), members(optimizer), model.peft_config["default"].to_dict()
    with pytest.raises(PlanError, match=message):
        resize(model, before, after, optimizer=optimizer)
    assert torch.equal(logits(model), was) and members(optimizer) == held
    assert model.peft_config["default"].to_dict() == config


def test_an_expert_that_is_no_module_may_be_in_both_plans_while_it_is_frozen() -> None:
    expert = MatrixAllocation(name="model.layers.1.mlp.experts.gate_up_proj.0", rank=0, lora_alpha=0.0)
    model = adapted(small(), BEFORE)
    assert resize(model, (*BEFORE, expert), (*allocated({Q: (4, 8.0)}), expert), optimizer=None) == [V, UP]


def test_dora_is_refused() -> None:
    model = adapted(small(), BEFORE, use_dora=True)
    with pytest.raises(PlanError, match=r"q_proj has a DoRA layer, whose magnitudes belong to its present update"):
        resize(model, BEFORE, allocated({Q: (6, 8.0), V: (4, 8.0), UP: (4, 8.0)}), optimizer=None)
    with pytest.raises(PlanError, match=r"v_proj has a DoRA layer"):
        resize(model, BEFORE, allocated({Q: (4, 8.0), UP: (4, 8.0)}), optimizer=None)
    with pytest.raises(PlanError, match=r"q_proj has a DoRA layer"):
        update_of(model, Q)


def merge(model: PeftModel) -> None:
    model.merge_adapter()


def bias(model: PeftModel) -> None:
    layer_of(model, Q).lora_bias["default"] = True


def variant(model: PeftModel) -> None:
    layer_of(model, Q).lora_variant["default"] = object()


@pytest.mark.parametrize("spoil", [merge, bias, variant])
def test_only_plain_and_unmerged_adapters_are_resized(spoil: Callable[[PeftModel], None]) -> None:
    model = adapted(small(), BEFORE)
    spoil(model)
    with pytest.raises(PlanError, match=r"q_proj has a LoRA variant, a LoRA bias, a merged adapter, or is no linear"):
        resize(model, BEFORE, allocated({Q: (6, 8.0)}), optimizer=None)


def test_a_convolution_is_refused() -> None:
    stack = torch.nn.Sequential(torch.nn.Conv2d(6, 8, 3))
    model = get_peft_model(stack, LoraConfig(r=2, lora_alpha=4, target_modules=["0"]))
    with pytest.raises(PlanError, match=r"^0 has a LoRA variant, .* or is no linear module"):
        update_of(model, "0")
    with pytest.raises(PlanError, match=r"^0 has a LoRA variant, .* or is no linear module"):
        resize(model, allocated({"0": (2, 4.0)}, ("0",)), allocated({"0": (3, 4.0)}, ("0",)), optimizer=None)


def test_an_optimizer_of_another_model_is_refused() -> None:
    model = adapted(small(), BEFORE)
    with pytest.raises(PlanError, match=r"an adapter of .*q_proj is trainable but in no parameter group"):
        resize(model, BEFORE, allocated({Q: (2, 8.0)}), optimizer=trained_by(adapted(small(), BEFORE)))
    assert layer_of(model, Q).r["default"] == 4, "it was refused after it had been changed"


def test_a_state_in_another_form_cannot_be_padded_but_can_start_afresh() -> None:
    model = adapted(small(), BEFORE)
    optimizer = trained_by(model)
    step(model, optimizer)
    optimizer.state[factors(model, Q)[1]]["exp_avg"] = torch.zeros(16, 4, dtype=torch.uint8)
    with pytest.raises(
        PlanError, match=r"exp_avg of .*q_proj is \(16, 4\) of torch.uint8 for a parameter of \(16, 4\)"
    ):
        resize(model, BEFORE, allocated({Q: (6, 8.0)}), optimizer=optimizer)
    optimizer.state[factors(model, Q)[1]]["exp_avg"] = torch.zeros(1, 16)
    with pytest.raises(
        PlanError, match=r"exp_avg of .*q_proj is \(1, 16\) of torch.float32 for a parameter of \(16, 4\)"
    ):
        resize(model, BEFORE, allocated({Q: (6, 8.0)}), optimizer=optimizer)
    assert resize(model, BEFORE, allocated({Q: (2, 8.0)}), optimizer=optimizer) == [Q, V, UP]
