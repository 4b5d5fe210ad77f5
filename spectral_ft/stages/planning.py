"""What `plan` tells beside the plan: what a training step would take, and how far another plan is from it."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from spectral_ft.errors import ConfigError
from spectral_ft.experiment import Experiment
from spectral_ft.methods.none import Nothing
from spectral_ft.methods.seam import BaseModel
from spectral_ft.storage import read_json
from spectral_ft.types import AllocationPlan, Probe

if TYPE_CHECKING:
    import torch

    from spectral_ft.training.footprint import StepFootprint

OPTIMIZER_BYTES = {"8bit": 2.0, "sgd": 0.0, "adafactor": 0.0, "adamw": 8.0, "lion": 4.0}
"""A trainable parameter, by a part of the optimizer's name, first match: moments in float32 or 8 bits, or none."""
UNKNOWN_OPTIMIZER = 8.0


@dataclass(frozen=True)
class StepEstimate:
    """What a training step takes."""

    memory: Mapping[str, int]
    """Part to bytes."""
    flops: int
    """Of one micro batch, forward and backward."""
    backward: str
    """A sentence: how far it goes."""
    usual_flops: int | None
    """If backward went down to the embeddings, as it does where activations are recomputed the usual way; None where
    it does anyway."""
    usual_activations: int | None
    """Bytes, likewise."""


def estimated_memory(
    experiment: Experiment, plan: AllocationPlan, base: BaseModel, probe: Probe | None
) -> Mapping[str, int] | None:
    """The memory of training, by part.

    Args:
        experiment: Its components.
        plan: What is trained.
        base: The model.
        probe: For methods that start from it.

    Returns:
        Part to bytes; None where nothing is trained.
    """
    step = estimated_step(experiment, plan, base, probe, compare=False)
    return step.memory if step else None


def estimated_step(
    experiment: Experiment, plan: AllocationPlan, base: BaseModel, probe: Probe | None, *, compare: bool = True
) -> StepEstimate | None:
    """Memory and arithmetic of training, on the model without weights.

    Args:
        experiment: Its components; the batch is training.micro_batch_size examples of dataset.max_length tokens.
        plan: What is trained.
        base: The model.
        probe: For methods that start from it.
        compare: Estimate a backward pass through all blocks too, where this one stops earlier.

    Returns:
        The estimate; None where nothing is trained.
    """
    if isinstance(experiment.method, Nothing):
        return None
    import torch

    from spectral_ft.models.device import autocast_dtype, compute_device, resolve_dtype
    from spectral_ft.training.backward import recompute_activations
    from spectral_ft.training.footprint import estimate_footprint
    from spectral_ft.training.head_loss import HeadIsNotLastError, fused_head_loss

    device = compute_device()
    dtype = resolve_dtype(experiment.model.dtype, device)
    model = base.blueprint().requires_grad_(False)
    torch.nn.Module.to(model, dtype)
    parameters = dict(model.named_parameters())
    kept = [*base.heads, *(name for name, module in model.named_modules() if module is model.get_output_embeddings())]
    packed = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not any(name == k or name.startswith(f"{k}.") for k in kept)
    ]
    trained = experiment.method.adapt(model, plan, base=base, steps=1000, probe=probe)
    if _checkpointing(experiment):
        recompute_activations(trained.model)
    bits = experiment.quantization.bits
    name = experiment.training.optimizer

    of_step = partial(
        estimate_footprint,
        trained.model,
        _batch(experiment),
        base=parameters,
        quantized={} if bits is None else dict.fromkeys(packed, bits),
        optimizer_bytes=next((size for part, size in OPTIMIZER_BYTES.items() if part in name), UNKNOWN_OPTIMIZER),
        autocast=autocast_dtype(experiment.model.dtype, device),
    )

    def estimate(*, through_all: bool) -> "StepFootprint":
        if experiment.training.fused_loss:
            with suppress(HeadIsNotLastError), fused_head_loss(trained.model):
                return of_step(through_all=through_all)
        return of_step(through_all=through_all)

    found = estimate(through_all=False)
    stops_early = compare and 0 < len(found.path.passed) < len(found.path.blocks)
    usual = estimate(through_all=True) if stops_early else None
    return StepEstimate(
        memory={part: getattr(found, part) for part in ("base", "adapters", "gradients", "optimizer", "activations")},
        flops=found.flops,
        backward=found.path.sentence,
        usual_flops=usual.flops if usual else None,
        usual_activations=usual.activations if usual else None,
    )


def other_plan(path: Path) -> AllocationPlan:
    """A plan from a file.

    Args:
        path: A `plan.json`.

    Returns:
        The plan.

    Raises:
        ConfigError: If there is no such file.
    """
    if not path.is_file():
        raise ConfigError(f"planning.against={path} does not exist: give a plan.json, or METHOD/POLICY.")
    return read_json(path, AllocationPlan)


def _checkpointing(experiment: Experiment) -> bool:
    asked = experiment.training.activation_checkpointing
    return experiment.method.activation_checkpointing if asked is None else asked


def _batch(experiment: Experiment) -> "dict[str, torch.Tensor]":
    import torch

    examples, length = experiment.training.micro_batch_size, experiment.dataset.max_length
    tokens = torch.empty(examples, length, dtype=torch.long, device="meta")
    labels = tokens[:, 0] if experiment.model.kind == "classifier" else tokens
    return {"input_ids": tokens, "attention_mask": tokens, "labels": labels}
