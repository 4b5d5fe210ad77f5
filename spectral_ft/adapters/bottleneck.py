"""Bottleneck adapters without biases, put on a model, counted, saved and opened again.

Source: LLM-Adapters, arXiv:2304.01933, section 2, with the sites of its released code: its series adapter is
on the input of a linear module, where the paper draws it after a sublayer.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from spectral_ft.adapters.bottleneck_layer import BottleneckLinear, Init, Placement, width_of
from spectral_ft.adapters.soundness import check_finite
from spectral_ft.errors import CheckpointError, PlanError
from spectral_ft.storage import write_json
from spectral_ft.types import MatrixShape

NOT_MERGEABLE = (
    "Bottleneck adapters cannot be merged into the weights: between down and up stands a tanh, so no single matrix "
    "has their effect. Keep the adapter folder beside the base model."
)
"""Why there is no merged form."""

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def bottleneck_parameters(sizes: Mapping[str, int], matrices: Sequence[MatrixShape], *, placement: Placement) -> int:
    """What the adapters hold: `2 size d_in` each in series, `size (d_in + d_out)` in parallel.

    Args:
        sizes: Module name to size of the bottleneck; 0 adds nothing.
        matrices: Of the model.
        placement: Of all of them.

    Returns:
        The number of parameters.

    Raises:
        PlanError: If a name is none of the matrices, or a size is negative.
    """
    known = {matrix.name: matrix.sides for matrix in matrices if matrix.name in sizes}
    if missing := sorted(set(sizes) - set(known)):
        raise PlanError(f"{missing[0]} is none of the {len(matrices)} matrices, so it can have no bottleneck adapter.")
    total = 0
    for name, size in _checked(sizes).items():
        d_out, d_in = known[name]
        total += size * (d_in + width_of(placement, d_in=d_in, d_out=d_out))
    return total


def add_bottlenecks(
    model: PreTrainedModel, sizes: Mapping[str, int], *, placement: Placement, init: Init
) -> PreTrainedModel:
    """Put fresh adapters on a model, in place; with `init=zero` no logit changes.

    Args:
        model: Base; `nn.Linear`, bitsandbytes' 4-bit and 8-bit linears and GPT-2's `Conv1D` can be sites.
        sizes: Module name to size of the bottleneck; 0 leaves the module as it is.
        placement: Of all adapters.
        init: Of their weights.

    Returns:
        The same model; only the adapters are trainable.

    Raises:
        PlanError: If a name is no linear module, a size is negative, or nothing is adapted. The model is then
            as it was.
    """
    sites = _wrapped(model, sizes, placement=placement, init=init)
    for site in sites.values():
        site.start()
    return _put(model, sites, trainable=True)


def save_bottlenecks(model: PreTrainedModel, folder: Path) -> None:
    """Write the adapters alone: their weights, and a configuration that says where they belong.

    Args:
        model: As `add_bottlenecks` or `open_bottlenecks` made it.
        folder: Where to; made if missing.

    Raises:
        PlanError: If the model has no such adapters.
    """
    sites = {name: module for name, module in model.named_modules() if isinstance(module, BottleneckLinear)}
    if not sites:
        raise PlanError(f"this {type(model).__name__} has no bottleneck adapters to save: add them first.")
    first = next(iter(sites.values()))
    sizes = {name: site.bottleneck_down.out_features for name, site in sites.items()}
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.detach().cpu().contiguous() for name, weight in _adapter_weights(sites).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    write_json(folder / CONFIG, _Config("BOTTLENECK", first.placement, first.init, sizes))


def open_bottlenecks(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Put saved adapters on their base, in place.

    Args:
        model: Frozen base.
        folder: As `save_bottlenecks` wrote it.

    Returns:
        The same model in evaluation mode, nothing of it trainable.

    Raises:
        CheckpointError: If the folder is damaged or does not fit the base. The model is then as it was.
    """
    try:
        config = TypeAdapter(_Config).validate_json((folder / CONFIG).read_bytes())
        stored = load_file(folder / WEIGHTS)
        sites = _wrapped(model, config.sizes, placement=config.placement, init=config.init)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise CheckpointError(
            f"{folder / CONFIG} describes no bottleneck adapters: {where}: {first['msg']}."
        ) from error
    except (OSError, SafetensorError, PlanError) as error:
        raise CheckpointError(f"{folder} could not be put on this base model: {error}") from error
    expected = _adapter_weights(sites)
    check_finite(stored, folder)
    for name in sorted(expected.keys() ^ stored.keys()):
        what = "is missing from" if name in expected else f"is not in {CONFIG}, but in"
        raise CheckpointError(f"{name} {what} {folder / WEIGHTS}: the two files do not belong together.")
    for name, weight in expected.items():
        if stored[name].shape != weight.shape:
            raise CheckpointError(
                f"{name} in {folder} has shape {tuple(stored[name].shape)}, this base model needs "
                f"{tuple(weight.shape)}: open it with the model on which it was trained."
            )
        weight.data.copy_(stored[name])
    _put(model, sites, trainable=False).train(False)
    return model


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class _Config:
    peft_type: Literal["BOTTLENECK"]
    placement: Placement
    init: Init
    sizes: dict[str, Annotated[int, Field(ge=1)]]


def _checked(sizes: Mapping[str, int]) -> Mapping[str, int]:
    for name, size in sizes.items():
        if size < 0:
            raise PlanError(f"the bottleneck of {name} has size {size}: take at least 1, or 0 to leave it out.")
    return {name: size for name, size in sizes.items() if size}


def _wrapped(
    model: PreTrainedModel, sizes: Mapping[str, int], *, placement: Placement, init: Init
) -> dict[str, BottleneckLinear]:
    # Unfilled, and not yet in the model: whatever is refused, is refused before anything changes.
    modules, found = dict(model.named_modules()), {}
    if any(isinstance(module, BottleneckLinear) for module in modules.values()):
        raise PlanError(f"this {type(model).__name__} has bottleneck adapters already: add all of them at once.")
    for name, size in _checked(sizes).items():
        module = modules.get(name)
        if not isinstance(module, (nn.Linear, Conv1D)):
            what = "no module" if module is None else f"a {type(module).__name__}, and no linear module,"
            linear = [known for known, module in modules.items() if isinstance(module, (nn.Linear, Conv1D))]
            kinds = ", ".join(sorted({known.rpartition(".")[2] for known in linear}))
            raise PlanError(
                f"{name} is {what} of this {type(model).__name__}, so it can have no bottleneck adapter: its "
                f"{len(linear)} linear modules end in {kinds}."
            )
        found[name] = BottleneckLinear(module, size, placement=placement, init=init)
    if not found:
        raise PlanError("there are no sites for bottleneck adapters: name a module and a size of at least 1.")
    return found


def _put(model: PreTrainedModel, sites: Mapping[str, BottleneckLinear], *, trainable: bool) -> PreTrainedModel:
    model.requires_grad_(False)
    for name, site in sites.items():
        model.set_submodule(name, site.train(site.base_layer.training))
        site.bottleneck_down.requires_grad_(trainable)
        site.bottleneck_up.requires_grad_(trainable)
    # What the Trainer asks a quantized model for, before it trains it: adapters on top.
    model._hf_peft_config_loaded = True
    return model


def _adapter_weights(sites: Mapping[str, BottleneckLinear]) -> dict[str, nn.Parameter]:
    return {
        f"{name}.{part}.weight": getattr(site, part).weight
        for name, site in sites.items()
        for part in ("bottleneck_down", "bottleneck_up")
    }
