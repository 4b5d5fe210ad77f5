"""Small models with adapters that can be resized, and optimizers of them."""

from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch.optim import AdamW
from transformers import LlamaConfig, LlamaForCausalLM

from spectral_ft.adapters.lora import lora_config
from spectral_ft.types import AllocationPlan, MatrixAllocation

Q, V, OUT, UP, DOWN = (
    f"model.layers.1.{name}"
    for name in ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
)
NAMES = (Q, V, OUT, UP, DOWN)
Allocations = tuple[MatrixAllocation, ...]


def small(dtype: torch.dtype = torch.float64) -> LlamaForCausalLM:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4
    )
    return LlamaForCausalLM(config).to(dtype).requires_grad_(False).eval()


def allocated(given: dict[str, tuple[float, ...]], names: tuple[str, ...] = NAMES) -> Allocations:
    """Module name to rank, lora_alpha and learning-rate multiplier; the rest is frozen."""
    return tuple(
        MatrixAllocation(name, int(given[name][0]), *given[name][1:])
        if name in given
        else MatrixAllocation(name=name, rank=0, lora_alpha=0.0)
        for name in names
    )


def adapted(base: Any, plan: Allocations, **options: Any) -> PeftModel:
    """Adapters with an update that is not zero."""
    model = get_peft_model(base, lora_config(AllocationPlan(plan, 1, 1, 1), **options)).eval()
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


def trained_by(model: PeftModel, **groups: float) -> AdamW:
    """An optimizer whose groups name their multipliers."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not groups:
        return AdamW(parameters, lr=1e-2, weight_decay=0.1)
    return AdamW([
        {"params": [] if number else parameters, "lr": 1e-2 * multiplier, "lr_multiplier": multiplier}
        for number, multiplier in enumerate(groups.values())
    ])


def step(model: PeftModel, optimizer: torch.optim.Optimizer, times: int = 1) -> None:
    for _ in range(times):
        model(input_ids=tokens(), labels=tokens()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def tokens() -> torch.Tensor:
    return torch.randint(4, 32, (3, 7), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(tokens()).logits
    return found


def layer_of(model: PeftModel, name: str) -> Any:
    return model.get_base_model().get_submodule(name)


def factors(model: PeftModel, name: str) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    layer = layer_of(model, name)
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight


def members(optimizer: torch.optim.Optimizer, number: int = 0) -> set[int]:
    return {id(parameter) for parameter in optimizer.param_groups[number]["params"]}


def assert_trains_exactly_what_is_trainable(model: PeftModel, optimizer: torch.optim.Optimizer) -> None:
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert len(held) == len(trainable) and {id(parameter) for parameter in held} == trainable
    assert {id(parameter) for parameter in optimizer.state} <= trainable


BEFORE = allocated({Q: (4, 8.0), V: (4, 8.0), UP: (4, 8.0)})
