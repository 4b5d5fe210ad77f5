"""The linear maps of a model, and which tensors of a checkpoint hold them: the module that owns a parameter decides.

transformers renames, merges and splits tensors while it loads a checkpoint. Its own rules are applied here to the names
alone, so that a matrix is called what its module is called, whatever its file calls it. Experts that the library stacks
in one parameter are taken as files keep them: one by one, gate and up apart.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from transformers import AutoModel, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key
from transformers.pytorch_utils import Conv1D

from spectral_ft.errors import SpectralFTError
from spectral_ft.hub import config_errors
from spectral_ft.models.architectures import type_and_side
from spectral_ft.models.blueprints import LOADERS, configuration
from spectral_ft.models.kinds import Kind, possible_kinds
from spectral_ft.models.places import CONVOLUTION_SCALE, Layout, LayoutRequest, Place
from spectral_ft.storage import read_json, write_json
from spectral_ft.types import MatrixShape

ADDED = (".lora_", ".bottleneck_", ".ia3_", ".modules_to_save.", "prompt_encoder.")
"""In the names of parameters that adapters added."""
_ADAPTERS = (".base_layer.", ".lora_")
_CODES = re.compile(r"[._](qweight|qzeros|weight_packed|weight_shape|W_q|blocks|scales|weight_scale\w*)$")


def lay_out(request: LayoutRequest) -> Layout:
    """Compare the tensors of a checkpoint with the model that its `config.json` builds.

    Args:
        request: The folder, and names and shapes of its tensors.

    Returns:
        Where each matrix is, and what is missing. A layout that is not compared says why.
    """
    cannot_build: tuple[type[Exception], ...] = (SpectralFTError, *config_errors())
    try:
        model = _empty_model(Path(request.folder), kind=request.kind, trust_remote_code=request.trust_remote_code)
    except cannot_build as error:
        return Layout(not_compared=_why_not(Path(request.folder), error, trusted=request.trust_remote_code))
    return layout_of(model, request.shapes, codes=request.codes, packed=request.packed, renamed=True)


def layout_of(
    model: PreTrainedModel,
    shapes: Mapping[str, tuple[int, ...] | None],
    *,
    codes: Collection[str] = (),
    packed: Collection[str] = (),
    renamed: bool = False,
) -> Layout:
    """Where the matrices of a model's blocks are among some tensors.

    Args:
        model: With or without weights, with or without adapters.
        shapes: Tensor name to its shape; None if its file is damaged or missing.
        codes: Tensors that hold codes of a quantization, whose shapes say nothing.
        packed: Tensors that bitsandbytes packed, which it has turned to (d_out, d_in).
        renamed: The tensors have the names of a file, which the library maps to its own; otherwise their names are the
            model's.

    Returns:
        The layout.
    """
    maps, left_out = linear_maps(model)
    sources = _sources(model, shapes) if renamed else {name: [_Source(name)] for name in shapes}
    found = _Found(left_out=left_out)
    for linear in maps:
        _place(linear, sources.get(linear.parameter, []), shapes, found, codes=codes, packed=packed)
    if renamed:
        _name_unknown(model, sources, shapes, found)
        tails = {name: f".{name}" for name in shapes}
        for name, sentence in list(found.missing.items()):
            found.missing[name] = _reason(name, tails) or sentence
    places = sorted(found.places, key=lambda place: (place.matrix.block, place.matrix.name))
    return Layout(
        model_class=type(model).__name__,
        places=tuple(places),
        missing=found.missing,
        unread=found.unread,
        left_out={reason: sorted(names) for reason, names in found.left_out.items()},
    )


class LinearMap(NamedTuple):
    """A parameter of a block that is one linear map, or several stacked ones."""

    parameter: str
    """Its name in the model, without what adapters put into it."""
    module: str
    """Name of the module that owns it."""
    leaf: str
    """The matrix's path inside the block."""
    block: int
    shape: tuple[int, ...]
    """Of the parameter."""
    d_in: int
    model_type: str
    transposed: bool = False
    """Stored as (d_in, d_out)."""
    experts: int | None = None
    """How many are stacked along the first side."""
    parts: tuple[str, ...] = ()
    """Of stacked experts: what files call the parts that lie below each other in it."""
    scale: float = 1.0


def linear_maps(model: PreTrainedModel) -> tuple[list[LinearMap], dict[str, list[str]]]:
    """The linear maps of a model's blocks.

    Args:
        model: With or without weights, with or without adapters.

    Returns:
        The maps, a shared parameter once; and the names of other parameters with two or more sides, by the reason why
        they are not linear maps of a module.
    """
    maps: list[LinearMap] = []
    left_out: dict[str, list[str]] = defaultdict(list)
    parts = _expert_parts(model)
    for name, module, parameter in _block_parameters(model):
        path, _, own = name.rpartition(".")
        block, leaf = _inside(path)
        if not leaf:
            continue  # a list of single modules, not of blocks
        shape = tuple(parameter.shape)
        linear = LinearMap(name, path, leaf, block, shape, shape[-1] if shape else 1, str(model.config.model_type))
        if isinstance(module, torch.nn.Linear) and own == "weight":
            shape = (module.out_features, module.in_features)
            maps.append(linear._replace(shape=shape, d_in=shape[1]))
        elif isinstance(module, Conv1D) and own == "weight":
            maps.append(linear._replace(d_in=shape[0], transposed=True))
        elif parameter.ndim < 2 or own.endswith("bias") or _is_embedding(module):
            continue
        elif isinstance(module, torch.nn.modules.conv._ConvNd) and own == "weight":
            if module.groups > 1:
                left_out[f"{leaf}, a depthwise or grouped convolution"].append(name)
                continue
            maps.append(linear._replace(d_in=int(parameter[0].numel()), scale=CONVOLUTION_SCALE))
        elif parameter.ndim == 3 and "expert" in f"{path}.{type(module).__name__}".lower():
            transposed = bool(getattr(module, "is_transposed", False))
            maps.append(
                linear._replace(
                    leaf=leaf if own == "weight" else f"{leaf}.{own}",
                    d_in=shape[1 if transposed else 2],
                    transposed=transposed,
                    experts=shape[0],
                    parts=parts.get(name, ()),
                )
            )
        elif parameter.ndim == 2 and own == "weight" and not list(module.children()):
            maps.append(linear)  # a router
        else:
            left_out[f"{own} of {type(module).__name__}, which is not a linear module"].append(name)
    return maps, left_out


class _Source(NamedTuple):
    # A tensor of a file that becomes a parameter, or a part of it.
    tensor: str
    part: str | None = None
    """Of stacked experts: what the file calls the part."""
    expert: int | None = None
    share: tuple[int, int] | None = None
    """The parameter is the first of two equal shares of the rows: (0, 2)."""
    turned: bool = False
    """The library transposes it."""
    below: bool = False
    """Several lie below each other."""
    obstacle: str | None = None
    """What the library does to it that is not known here."""


@dataclass
class _Found:
    places: list[Place] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)


def _why_not(folder: Path, error: Exception, *, trusted: bool) -> str:
    if not trusted and '"auto_map"' in (folder / "config.json").read_text(errors="replace"):
        return "the checkpoint comes with code of its own, which runs only with model.trust_remote_code=true"
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"transformers {transformers.__version__} builds no model from config.json: {first}"


def _empty_model(folder: Path, *, kind: Kind, trust_remote_code: bool) -> PreTrainedModel:
    config = configuration(folder, kind=None, labels=None, trust_remote_code=trust_remote_code)
    possible = possible_kinds(config)
    named = (getattr(config, "architectures", None) or [""])[0]
    if possible:
        loader = LOADERS[kind if kind in possible else possible[0]]
    else:
        loader = getattr(transformers, named, None) or AutoModel
    with torch.device("meta"):
        if hasattr(loader, "from_config"):
            return loader.from_config(config, trust_remote_code=trust_remote_code)
        return loader._from_config(config)


def _block_parameters(model: PreTrainedModel) -> Iterator[tuple[str, torch.nn.Module, torch.nn.Parameter]]:
    # Those below a numbered module of a list, named as without adapters, each once.
    lists = {name for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)}
    seen: set[int] = set()
    for path, module in model.named_modules():
        if not any(f"{path}.".startswith(f"{blocks}.") for blocks in lists):
            continue
        for own, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{own}"
            if id(parameter) in seen or any(mark in name for mark in ADDED):
                continue
            seen.add(id(parameter))
            yield base_name(name), module, parameter


def base_name(name: str) -> str:
    """What a parameter is called without PEFT.

    Args:
        name: In a model that may have adapters.

    Returns:
        The name in the model alone.
    """
    for inserted in (".base_layer.", ".original_module."):
        name = name.replace(inserted, ".")
    return name.removeprefix("base_model.model.")


def _inside(path: str) -> tuple[int, str]:
    # The number of the block that a module is in, and its path inside.
    head = re.search(r"\.(\d+)(?:\.|$)", path)
    assert head is not None, path
    return int(head[1]), path[head.end() :]


def _is_embedding(module: torch.nn.Module) -> bool:
    name = type(module).__name__.lower()
    return isinstance(module, torch.nn.Embedding) or "embedding" in name or "norm" in name


def _rules(model: PreTrainedModel) -> tuple[list[WeightRenaming], list[WeightConverter]]:
    rules = get_model_conversion_mapping(model)
    return (
        [rule for rule in rules if isinstance(rule, WeightRenaming)],
        [rule for rule in rules if isinstance(rule, WeightConverter)],
    )


def _expert_parts(model: PreTrainedModel) -> dict[str, tuple[str, ...]]:
    # Stacked parameter to what files call its parts: `experts.gate_up_proj` to (gate_proj, up_proj).
    bare = getattr(model, "get_base_model", lambda: model)()
    merging = [rule for rule in _rules(bare)[1] if _operations(rule)[:1] == ["MergeModulelist"]]
    found: dict[str, tuple[str, ...]] = {}
    for rule in merging:
        targets, parts = list(rule.target_patterns), [_part(pattern) for pattern in rule.source_patterns]
        if len(targets) != 1 or not all(parts) or set(_operations(rule)) - {"MergeModulelist", "Concatenate"}:
            continue
        end = _plain(targets[0])
        for name, _ in bare.named_parameters():
            if base_name(name).endswith(f".{end}") or base_name(name) == end:
                found[base_name(name)] = tuple(part for part in parts if part)
    return found


def _operations(rule: WeightConverter) -> list[str]:
    return [type(operation).__name__ for operation in rule.operations]


def _part(pattern: str) -> str | None:
    # `mlp.experts.*.gate_proj.weight` to `gate_proj`.
    match = re.search(r"experts\\?\.(?:\*|\\d\+|\(\\d\+\))\\?\.(.+?)(?:\\?\.weight\$?)?$", pattern)
    return match[1] if match else None


def _plain(pattern: str) -> str:
    return pattern.replace("\\.", ".").strip("^$").removeprefix(".")


def _sources(model: PreTrainedModel, names: Mapping[str, Any]) -> dict[str, list[_Source]]:
    # Parameter to the tensors of the files that it is made of.
    renamings, converters = _rules(model)
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    state = model.state_dict()
    found: dict[str, list[_Source]] = defaultdict(list)
    for name in sorted(names, key=dot_natural_key):
        key, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if key not in state and name in state:
            key, pattern = rename_source_key(name, [], [], model.base_model_prefix, state)
        if pattern is None:
            found[key].append(_Source(name))
            continue
        for target, source in _converted(name, key, pattern, by_pattern[pattern]):
            found[target].append(source)
    return found


def _converted(name: str, key: str, pattern: str, rule: WeightConverter) -> Iterator[tuple[str, _Source]]:
    operations, targets = _operations(rule), list(rule.target_patterns)
    sizes = {getattr(operation, "dim", None) for operation in rule.operations}
    if operations[:1] == ["MergeModulelist"] and not set(operations) - {"MergeModulelist", "Concatenate", "Transpose"}:
        number = re.search(r"experts?\.(\d+)\.(.+?)(?:\.weight)?$", name)
        if number and len(targets) == 1:
            part = _part(pattern) or number[2]
            yield key, _Source(name, part=part, expert=int(number[1]), turned="Transpose" in operations)
            return
    elif operations == ["Chunk"] and sizes == {0}:
        for place, target in enumerate(targets):
            other = key if place == 0 else key.replace(_plain(targets[0]), _plain(target))
            yield other, _Source(name, share=(place, len(targets)))
        return
    elif operations == ["Concatenate"] and sizes == {0} and len(targets) == 1:
        yield key, _Source(name, below=True)
        return
    elif operations == ["Transpose"] and len(targets) == 1:
        yield key, _Source(name, turned=True)
        return
    for place, target in enumerate(targets):
        other = key if place == 0 else key.replace(_plain(targets[0]), _plain(target))
        yield other, _Source(name, obstacle=", ".join(operations))


def _place(
    linear: LinearMap,
    sources: list[_Source],
    shapes: Mapping[str, tuple[int, ...] | None],
    found: _Found,
    *,
    codes: Collection[str],
    packed: Collection[str],
) -> None:
    # Where the matrices of one parameter are, or why they are not there.
    if obstacles := {source.obstacle for source in sources if source.obstacle}:
        found.left_out.setdefault(f"which transformers converts while it loads them ({min(obstacles)})", []).append(
            linear.module
        )
        return
    if linear.experts is not None:
        _place_experts(linear, sources, shapes, found, codes=codes)
        return
    name, rows = linear.module, linear.shape[1 if linear.transposed else 0]
    if unread := next((source.tensor for source in sources if shapes[source.tensor] is None), None):
        found.unread[name] = unread
        return
    if fault := _fault(linear, sources, shapes, codes=codes, packed=packed):
        found.missing[name] = fault
        return
    first = sources[0]
    share, shares = first.share or (0, 1)
    found.places.append(
        Place(
            _matrix(linear, name, linear.leaf, (rows, linear.d_in)),
            first.tensor,
            transposed=_is_turned(linear, first, packed),
            scale=linear.scale,
            rows=(share * rows, (share + 1) * rows) if shares > 1 else None,
            further=tuple(source.tensor for source in sources[1:]),
        )
    )


def _is_turned(linear: LinearMap, source: _Source, packed: Collection[str]) -> bool:
    return (linear.transposed != source.turned) and source.tensor not in packed


def _fault(
    linear: LinearMap,
    sources: list[_Source],
    shapes: Mapping[str, tuple[int, ...] | None],
    *,
    codes: Collection[str],
    packed: Collection[str],
) -> str | None:
    # Why the tensors are not the parameter of one matrix.
    if not sources:
        return _absent(linear.module, linear.shape)
    first, rows = sources[0], linear.shape[1 if linear.transposed else 0]
    if len(sources) > 1 and not first.below:
        return (
            f"{first.tensor} and {sources[1].tensor} are both {linear.module} of the model that config.json builds: "
            "remove one."
        )
    if {source.tensor for source in sources} & set(codes):
        return None
    stored = [shapes[source.tensor] or () for source in sources]
    total = (sum(shape[0] if shape else 0 for shape in stored), *stored[0][1:])
    wanted: tuple[int, ...] = (rows * (first.share or (0, 1))[1], linear.d_in)
    if linear.scale != 1:
        wanted = (rows, *linear.shape[1:])
    elif _is_turned(linear, first, packed):
        wanted = (linear.d_in, rows)
    return None if total == wanted else _mismatch(first.tensor, total, wanted)


def _place_experts(
    linear: LinearMap,
    sources: list[_Source],
    shapes: Mapping[str, tuple[int, ...] | None],
    found: _Found,
    *,
    codes: Collection[str],
) -> None:
    # One expert after the other: from tensors of their own, or from a stacked one.
    inner, parts = linear.shape[2 if linear.transposed else 1], linear.parts or (None,)
    rows, owner = inner // len(parts), linear.leaf.rpartition(".")[0]
    single = {(source.expert, source.part): source for source in sources if source.expert is not None}
    stacked = next((source for source in sources if source.expert is None), None)
    for expert in range(linear.experts or 0):
        for place, part in enumerate(parts):
            if part is None:
                leaf, name = linear.leaf, f"{linear.parameter.removesuffix('.weight')}.{expert}"
            else:
                leaf, name = f"{owner}.{expert}.{part}", f"{linear.module}.{expert}.{part}"
            source = single.get((expert, part)) or stacked
            if source is None:
                found.missing[name] = _absent(name, (rows, linear.d_in))
                continue
            stored = shapes[source.tensor]
            if stored is None:
                found.unread[name] = source.tensor
                continue
            turned = linear.transposed != source.turned
            wanted: tuple[int, ...] = (inner, linear.d_in) if source is stacked else (rows, linear.d_in)
            wanted = tuple(reversed(wanted)) if turned else wanted
            wanted = (linear.shape[0], *wanted) if source is stacked else wanted
            if stored != wanted and source.tensor not in codes:
                found.missing[name] = _mismatch(source.tensor, stored, wanted)
                continue
            whole = source is not stacked or len(parts) == 1
            found.places.append(
                Place(
                    _matrix(linear, name, leaf, (rows, linear.d_in)),
                    source.tensor,
                    expert=expert if source is stacked else None,
                    transposed=turned,
                    rows=None if whole else (place * rows, (place + 1) * rows),
                )
            )


def _matrix(linear: LinearMap, name: str, leaf: str, shape: tuple[int, int]) -> MatrixShape:
    kind, side = type_and_side(linear.model_type, name, leaf)
    return MatrixShape(name=name, type=kind, side=side, block=linear.block, shape=shape)


def _absent(name: str, shape: tuple[int, ...]) -> str:
    return (
        f"{name} is missing: the model that config.json builds has it with shape {tuple(shape)}, and no tensor of the "
        "files is it. Download the checkpoint again, or correct config.json."
    )


def _mismatch(tensor: str, stored: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    return (
        f"{tensor} has shape {tuple(stored)} in the files and {tuple(wanted)} in the model that config.json builds: "
        "files and config.json do not belong together. Download both again."
    )


def _reason(name: str, names: Mapping[str, str]) -> str | None:
    # Why the files lack a matrix, if its neighbours there tell.
    tail = re.search(r"[^.]+\.\d+\..+$", name)
    where = f".{tail[0] if tail else name}"
    beside = [tensor for tensor, dotted in names.items() if f"{where}." in dotted or f"{where}_" in dotted]
    if adapted := [tensor for tensor in beside if any(mark in tensor for mark in _ADAPTERS)]:
        return (
            f"{name} is missing: the files hold LoRA weights that were not merged ({adapted[0]}). Merge the adapter "
            "(PEFT: merge_and_unload) and save the model again."
        )
    expert = re.sub(r"\.experts\.\d+\..*", ".experts.", where)
    if expert != where:
        beside += [tensor for tensor, dotted in names.items() if expert in dotted]
    codes = [tensor for tensor in beside if _CODES.search(tensor)]
    if codes:
        return (
            f"{name} is quantized ({codes[0]}), and a spectrum of its codes would mean nothing. Point model.path at "
            "the unquantized checkpoint, or leave it out: spectrum.exclude."
        )
    return None


def _name_unknown(
    model: PreTrainedModel,
    sources: Mapping[str, list[_Source]],
    shapes: Mapping[str, tuple[int, ...] | None],
    found: _Found,
) -> None:
    # Tensors of the files, with two or more sides, that the model has not.
    state = model.state_dict()
    for parameter, made_of in sources.items():
        if parameter not in state and re.search(r"\.\d+\.", parameter):
            tensors = [source.tensor for source in made_of if len(shapes[source.tensor] or ()) > 1]
            if tensors:
                reason = f"which {type(model).__name__} does not have"
                found.left_out.setdefault(reason, []).extend(tensors)


def main() -> None:
    """Answer one request in a process of its own: `python -m spectral_ft.models.modules REQUEST ANSWER`."""
    request, answer = map(Path, sys.argv[1:])
    write_json(answer, lay_out(read_json(request, LayoutRequest)))


if __name__ == "__main__":
    main()
