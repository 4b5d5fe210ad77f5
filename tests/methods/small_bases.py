"""Small random models as methods see them, every method, and plans that give it something to do."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel

from spectral_ft.methods.adalora import AdaLora
from spectral_ft.methods.bottleneck import Bottleneck
from spectral_ft.methods.eva import Eva
from spectral_ft.methods.full import Full
from spectral_ft.methods.ia3 import Ia3
from spectral_ft.methods.ln_tuning import LnTuning
from spectral_ft.methods.lora import Lora
from spectral_ft.methods.prefix import Prefix
from spectral_ft.methods.seam import Adapted, BaseModel
from spectral_ft.methods.spectrum import Spectrum
from spectral_ft.models.blueprints import head_modules
from spectral_ft.models.kinds import Kind, task_type
from spectral_ft.models.loaded import loaded_matrices
from spectral_ft.types import AllocationPlan, MatrixAllocation, MatrixShape, Probe
from tests.models.tiny_models import model_of

Allocations = tuple[MatrixAllocation, ...]
KINDS: Mapping[str, Kind] = {"bert": "classifier", "t5": "seq2seq"}


def lora(*, dropout: float = 0.0, rslora: bool = False, dora: bool = False, rounds: int = 1) -> Lora:
    return Lora("lora", dropout, use_rslora=rslora, use_dora=dora, rounds=rounds, activation_checkpointing=False)


def adalora(*, factor: float = 1.5, tinit: float = 0.1, tfinal: float = 0.3, interval: int = 2) -> AdaLora:
    return AdaLora("adalora", 0.0, factor, tinit, tfinal, interval, 0.1)


METHODS: Mapping[str, Any] = {
    "lora": lora(),
    "rslora": lora(rslora=True),
    "dora": lora(dora=True),
    "eva": Eva("eva", 0.0),
    "adalora": adalora(),
    "ia3": Ia3("ia3", None, None),
    "ln_tuning": LnTuning("ln_tuning", None),
    "prefix": Prefix("prefix", 3),
    "adapter_s": Bottleneck("adapter_s", "series", ["gate_proj", "up_proj"], 5, "bert"),
    "adapter_p": Bottleneck("adapter_p", "parallel", ["up_proj", "down_proj"], 5, "bert"),
    "spectrum": Spectrum("spectrum"),
    "full": Full("full"),
}
"""Every method that trains, with small sizes."""
LORA_FAMILY = ("lora", "rslora", "dora", "eva", "adalora")


def frozen(model_type: str, **sizes: object) -> PreTrainedModel:
    """The same random model at each call, as a loaded checkpoint is: frozen, in evaluation mode."""
    model: PreTrainedModel = model_of(model_type, **sizes)
    model.config.decoder_start_token_id = 0
    return model.requires_grad_(False).eval()


def seen(model: PreTrainedModel) -> BaseModel:
    """A model as methods count it."""
    kind = KINDS.get(model.config.model_type, "causal_lm")
    heads = head_modules(model, kind=kind)

    def blueprint() -> PreTrainedModel:
        with torch.device("meta"):
            return type(model)(model.config)

    return BaseModel(
        matrices=loaded_matrices(blueprint()).matrices,
        parameters=sum(parameter.numel() for parameter in blueprint().parameters()),
        heads=heads,
        head_parameters=sum(p.numel() for name in heads for p in model.get_submodule(name).parameters()),
        task_type=task_type(kind),
        blueprint=blueprint,
    )


def mixed(matrices: tuple[MatrixShape, ...]) -> Allocations:
    """Ranks 0 to 3 and as many scalings."""
    return tuple(
        MatrixAllocation(m.name, number % 4, 3.0 * (number % 4) ** 2 + number % 3 if number % 4 else 0.0)
        for number, m in enumerate(matrices)
    )


def even(matrices: tuple[MatrixShape, ...], rank: int = 2) -> Allocations:
    """One rank for two of three matrices."""
    return tuple(
        MatrixAllocation(m.name, rank, 2.0 * rank) if number % 3 else MatrixAllocation(m.name, 0, 0.0)
        for number, m in enumerate(matrices)
    )


def untouched(matrices: tuple[MatrixShape, ...]) -> Allocations:
    """What a method without a policy is given."""
    return tuple(MatrixAllocation(m.name, 0, 0.0) for m in matrices)


ASKED = {"each": mixed, "one": even, "whole": mixed, "none": untouched}


def planned(method: Any, base: BaseModel) -> AllocationPlan:
    """What a method makes of a policy that it goes with."""
    plan: AllocationPlan = method.plan(ASKED[method.takes.ranks](base.matrices), base)
    return plan


def directions(plan: AllocationPlan, matrices: tuple[MatrixShape, ...]) -> Probe:
    """A probe that found orthonormal directions, as many as the plan's ranks."""
    generator, width = np.random.default_rng(0), {m.name: m.sides[1] for m in matrices}
    components = {
        a.name: np.linalg.qr(generator.normal(size=(width[a.name], a.rank)))[0].T.astype(np.float32)
        for a in plan.adapted
    }
    return Probe(ids=(0,), columns={}, components=components)


def adapt(
    name: str, model: PreTrainedModel, base: BaseModel | None = None, *, method: Any = None, steps: int = 40
) -> Adapted:
    """A model with fresh adapters of one of `METHODS`, or of a method given; the same ones at each call."""
    method, base = method or METHODS[name], base or seen(model)
    plan = planned(method, base)
    torch.manual_seed(0)
    adapted: Adapted = method.adapt(model, plan, base=base, steps=steps, probe=directions(plan, base.matrices))
    return adapted


def trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Name to parameter of what training moves."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def moved(model: torch.nn.Module) -> torch.nn.Module:
    """Everything trained elsewhere than at its start, the same at each call; in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    for parameter in trained(model).values():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return model.eval()


def batch_for(model: torch.nn.Module, *, seed: int = 0, examples: int = 3, tokens: int = 7) -> dict[str, torch.Tensor]:
    """Random tokens with labels, in the form that a model takes."""
    config: Any = model.config
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 32, (examples, tokens), generator=generator)
    labels = torch.arange(examples) % 2 if config.model_type == "bert" else ids
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return {key: value.to(cast(Any, model).device) for key, value in batch.items()}


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    """What a model says to one batch, without being asked for a loss."""
    batch = batch_for(model)
    labels = batch.pop("labels")
    if cast(Any, model.config).is_encoder_decoder:
        batch["decoder_input_ids"] = labels
    found: torch.Tensor = model(**batch).logits
    return found
