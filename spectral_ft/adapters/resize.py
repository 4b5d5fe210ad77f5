"""Re-allocation in mid-training: adapters become what a new plan says, and keep their function.

With s the scaling (lora_alpha / r, or lora_alpha / sqrt r for rsLoRA) and ' for what is new:

    kept rank    A' = A                     B' = (s / s') B
    growing      A' = [A; Kaiming rows]     B' = [(s / s') B, 0]
    shrinking    A' = D^1/2 V^T             B' = U D^1/2,    U D V^T the largest r' of the SVD of (s / s') B A

so that s' B' A' = s B A, or its best approximation of rank r'. The SVD is that of the r x r core of the
factors' QRs; B A is not formed. The split is balanced, since one learning rate moves both factors. Where
B A has a smaller rank than r' (a B that is still zero), the rest is grown: zero rows against zero columns
would never get a gradient.

Source: best approximation, Eckart and Young 1936; start of new rows and columns, arXiv:2106.09685, section 4.1.

Known gaps: under DDP the model must be wrapped again afterwards, which also makes the new rows alike in all
processes. The moments of a carried optimizer state stay those of the old scaling.
"""

import copy
import math
import re
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import cast_adapter_dtype
from torch.nn import Parameter

from spectral_ft.adapters.lora_layer import ADAPTER, check_plain, factors, is_adapted, is_trained, rank_and_alpha
from spectral_ft.adapters.optimizer_state import Replacement, follow
from spectral_ft.adapters.resize_checks import check_optimizer, check_plans, check_same_matrices
from spectral_ft.errors import PlanError
from spectral_ft.types import MatrixAllocation


class _Change(NamedTuple):
    """A matrix whose adapter is not yet what the plan says."""

    name: str
    module: Any
    """PEFT's LoRA layer, or the linear module that is to become one."""
    now: MatrixAllocation
    trains: bool
    """Rather than keeps what it has, frozen."""
    moves: bool
    """To another learning rate, or from frozen to trained."""


def resize(
    model: PeftModel,
    before: tuple[MatrixAllocation, ...],
    after: tuple[MatrixAllocation, ...],
    *,
    optimizer: torch.optim.Optimizer | None,
) -> list[str]:
    """Make a model's adapters what a new plan says, in place; everything is checked before anything is changed.

    A matrix that is newly frozen (rank 0, or lr_multiplier 0 with the rank and alpha that it has) keeps its
    adapter, untrained. The optimizer's state is carried over, padded with zeros where a rank grows, and starts
    afresh for what was shrunk, thawed or newly adapted. New parameters go to the first parameter group whose
    lr_multiplier is the plan's. Call it between steps: gradients of what changes are dropped.

    Args:
        model: With plain LoRA or rsLoRA layers, and nothing merged.
        before: What the model is now, one allocation a matrix.
        after: What it shall be, of the same matrices.
        optimizer: Of the model; None where nothing is trained any more.

    Returns:
        The names of the matrices that changed, in the order of `after`.

    Raises:
        PlanError: If a plan does not fit the model, the other plan or the optimizer, or asks for what cannot be done:
            a rank above the smaller side, a resized member of a group, a DoRA layer.
    """
    check_same_matrices(before, after)
    known = {allocation.name: allocation for allocation in before}
    modules = dict(model.get_base_model().named_modules())
    compared = (_change(modules.get(now.name), known[now.name], now) for now in after)
    changes = [change for change in compared if change is not None]
    if optimizer is not None:
        for change in changes:
            check_optimizer(optimizer, change.module, change.now, moves=change.moves)
    replacements = [replacement for change in changes for replacement in _apply(model, change)]
    if optimizer is not None:
        follow(optimizer, replacements, order=model.parameters())
    if changes:
        _describe(model)
    return [change.name for change in changes]


def _change(module: torch.nn.Module | None, was: MatrixAllocation, now: MatrixAllocation) -> _Change | None:
    # What must change at one matrix; None if nothing.
    if module is None:
        if was.rank or now.rank:
            raise PlanError(f"the model has no module {now.name}: give plans of this model.")
        return None  # an expert of a stack is a matrix, but no module
    check_plans(module, was, now)
    trained, trains = is_trained(module), now.rank > 0 and now.lr_multiplier > 0
    moves = trains and (not trained or was.lr_multiplier != now.lr_multiplier)
    if not moves and trained == trains and (not trains or rank_and_alpha(module) == (now.rank, now.lora_alpha)):
        return None
    if is_adapted(module):
        check_plain(module, now.name)
    return _Change(now.name, module, now, trains, moves)


def _apply(model: PeftModel, change: _Change) -> list[Replacement]:
    # Change one matrix; what became of its parameters.
    name, module, now = change.name, change.module, change.now
    multiplier = now.lr_multiplier if change.moves else None
    if not is_adapted(module):
        layer = _inject(model, change)
        return [Replacement(name, None, new, lr_multiplier=multiplier) for new in factors(layer)]
    trained, old = is_trained(module), factors(module)
    for parameter in old:
        parameter.grad = None
    if not change.trains:
        for parameter in old:
            parameter.requires_grad_(False)
        return [Replacement(name, parameter, None) for parameter in old]
    shrinks = now.rank < module.r[ADAPTER]
    _refit(module, now)
    return [
        Replacement(name, before if trained else None, new, not shrinks, multiplier)
        for before, new in zip(old, factors(module), strict=True)
    ]


@torch.no_grad()
def _refit(layer: LoraLayer, now: MatrixAllocation) -> None:
    # Give one layer the plan's rank and scaling.
    a, b = factors(layer)
    scaling = now.lora_alpha / (math.sqrt(now.rank) if layer.use_rslora[ADAPTER] else now.rank)
    if layer.scaling[ADAPTER] != scaling:
        b.mul_(layer.scaling[ADAPTER] / scaling)
    if now.rank != len(a):
        linear_a: Any = layer.lora_A[ADAPTER]
        linear_b: Any = layer.lora_B[ADAPTER]
        new_a, new_b = _grown(*(_shrunk(a, b, now.rank) if now.rank < len(a) else (a, b)), now.rank)
        linear_a.weight, linear_b.weight = Parameter(new_a), Parameter(new_b)
        linear_a.out_features = linear_b.in_features = now.rank
    for weight in factors(layer):
        weight.requires_grad_(True)
    layer.r[ADAPTER], layer.lora_alpha[ADAPTER], layer.scaling[ADAPTER] = now.rank, now.lora_alpha, scaling


def _grown(a: torch.Tensor, b: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    # More rows of A as PEFT begins them, more columns of B at zero.
    if rank == len(a):
        return a, b
    rows = torch.nn.init.kaiming_uniform_(a.new_empty(rank - len(a), a.shape[1]), a=math.sqrt(5))
    return torch.cat([a, rows]), torch.cat([b, b.new_zeros(len(b), len(rows))], dim=1)


def _shrunk(a: torch.Tensor, b: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    # The best approximation of B A of this rank, or of the rank that B A has if that is smaller.
    (q_b, r_b), (q_a, r_a) = torch.linalg.qr(b.double()), torch.linalg.qr(a.double().T)
    u, s, v = torch.linalg.svd(r_b @ r_a.T)
    kept = min(rank, int((s > s[0] * len(s) * torch.finfo(a.dtype).eps).sum()))
    half = s[:kept].sqrt()
    return (half[:, None] * (v[:kept] @ q_a.T)).to(a.dtype), ((q_b @ u[:, :kept]) * half).to(b.dtype)


def _inject(model: PeftModel, change: _Change) -> Any:
    # A fresh adapter on one more matrix: PEFT's own step for one module, since get_peft_model twice would nest.
    tuner: Any = model.base_model
    config: Any = copy.copy(model.peft_config[ADAPTER])
    config.r, config.lora_alpha, config.inference_mode = change.now.rank, change.now.lora_alpha, False
    config.rank_pattern, config.alpha_pattern = {}, {}
    path, _, child = change.name.rpartition(".")
    parent = model.get_base_model().get_submodule(path)
    tuner._create_and_replace(config, ADAPTER, change.module, child, parent, current_key=change.name)
    tuner.targeted_module_names.append(change.name)
    layer: Any = parent.get_submodule(child)
    cast_adapter_dtype(layer, ADAPTER)  # as get_peft_model does: float32 over a half-precision base
    layer.train(change.module.training)
    return layer


def _describe(model: PeftModel) -> None:
    # The configuration that is saved says what the layers are.
    config: Any = model.peft_config[ADAPTER]
    sizes = {
        name: rank_and_alpha(module) for name, module in model.get_base_model().named_modules() if is_adapted(module)
    }
    config.target_modules = set(sizes)
    config.rank_pattern = {re.escape(name): rank for name, (rank, _) in sizes.items() if rank != config.r}
    config.alpha_pattern = {re.escape(name): alpha for name, (_, alpha) in sizes.items() if alpha != config.lora_alpha}
