"""Which tensor of a checkpoint is which matrix, by the table of architectures.

A `model_type` that is not in the table gets generic rules and a warning.
"""

import logging
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from spectral_ft.errors import CheckpointError
from spectral_ft.models.architectures import ARCHITECTURES
from spectral_ft.models.kinds import Kind
from spectral_ft.models.stack import Stack, without_numbers
from spectral_ft.types import MatrixShape, Side

log = logging.getLogger(__name__)

CONVOLUTION_SCALE = math.sqrt(0.5)
"""Of a convolution that is flattened to (d_out, the rest); LoRA-AR and AlphaPruning, `conv_normalization`."""


@dataclass(frozen=True)
class Place:
    """A matrix and where its weights are."""

    matrix: MatrixShape
    tensor: str
    """Name in the checkpoint."""
    expert: int | None = None
    """Its index along the first side of a 3-D tensor."""
    transposed: bool = False
    """Whether it is stored as (d_in, d_out)."""
    scale: float = 1.0
    """What the weights are multiplied by; not 1 for a convolution."""
    rows: tuple[int, int] | None = None
    """First row and the one after the last, if the tensor holds several matrices below each other."""
    further: tuple[str, ...] = ()
    """Tensors that hold its further rows, in their order."""


@dataclass(frozen=True)
class LayoutRequest:
    """What must be known of a checkpoint to find its matrices."""

    folder: str
    kind: Kind
    trust_remote_code: bool
    shapes: dict[str, tuple[int, ...] | None]
    """Tensor name to its shape; None if its file is damaged or missing."""
    codes: list[str]
    """Tensors that hold codes of a quantization, whose shapes say nothing."""
    packed: list[str]
    """Tensors that bitsandbytes packed, which it has turned to (d_out, d_in)."""


@dataclass(frozen=True)
class Layout:
    """Where the matrices of a model's blocks are among the tensors of a checkpoint."""

    model_class: str = ""
    places: tuple[Place, ...] = ()
    """In the order of block and name."""
    missing: dict[str, str] = field(default_factory=dict)
    """Matrix that the model has and the files have not, to the sentence that says so."""
    unread: dict[str, str] = field(default_factory=dict)
    """Matrix to its tensor, which is damaged."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Why parameters or tensors of blocks are not matrices, to their names."""
    not_compared: str | None = None
    """Why files and model were not compared; the matrices must then be found by their names."""


_GENERIC = re.compile(r"(?P<path>.*?\b(?:layers?|h|blocks?)\.(?P<block>\d+)\.(?P<leaf>.+?))(?P<weight>\.weight)?")
_NO_LINEAR_MAP = re.compile(r"norm|ln_|embed|wte|wpe|bias|rotary|inv_freq")


def block_matrices(
    model_type: str, shapes: Mapping[str, tuple[int, ...]], *, packed: Collection[str] = ()
) -> tuple[Place, ...]:
    """The linear matrices inside the blocks, in the order of block and name.

    Args:
        model_type: As the checkpoint's `config.json` says.
        shapes: Tensor name to stored shape.
        packed: Names of those that bitsandbytes packed, which it has turned to (d_out, d_in).

    Returns:
        One entry a matrix, with its module path, type, side, block, (d_out, d_in), and its tensor.

    Raises:
        CheckpointError: If there is none.
    """
    stacks = ARCHITECTURES.get(model_type)
    if stacks is None:
        log.warning(
            "model_type %r is not in the table of architectures (%s): taking every weight of two or more sides below "
            "a numbered layer, h or block, embeddings and norms left out; sides are unknown",
            model_type,
            ", ".join(ARCHITECTURES),
        )
        found = [place for tensor, stored in shapes.items() for place in _generic(tensor, stored)]
    else:
        found = [
            place
            for stack in stacks
            for tensor, stored in shapes.items()
            for place in _in_stack(stack, tensor, stored, turned=tensor in packed)
        ]
    if not found:
        raise CheckpointError(
            f"no block matrix found for model_type {model_type!r} among {len(shapes)} tensors, "
            f"the first of which are {', '.join(sorted(shapes)[:3])}."
        )
    return tuple(sorted(found, key=lambda place: (place.matrix.block, place.matrix.name)))


def is_block_matrix(model_type: str, tensor: str) -> bool:
    """Whether a tensor would be a block matrix, from its name alone.

    Args:
        model_type: As the checkpoint's `config.json` says.
        tensor: Its name.

    Returns:
        True where a tensor of that name and two sides is one.
    """
    stacks = ARCHITECTURES.get(model_type)
    return bool(
        _generic(tensor, (1, 1)) or _generic(tensor, (1, 1, 1))
        if stacks is None
        else any(stack.pattern.fullmatch(tensor) for stack in stacks)
    )


def _in_stack(stack: Stack, tensor: str, stored: tuple[int, ...], *, turned: bool) -> list[Place]:
    match = stack.pattern.fullmatch(tensor)
    if not match:
        return []
    leaf, block = match["leaf"], int(match["block"])
    name = ".".join(filter(None, (stack.prefix, stack.blocks, match["block"], leaf)))
    kind, side = stack.type_of(leaf), stack.side_of(leaf)
    return _places(
        tensor, stored, name=name, kind=kind, side=side, block=block, transposed=stack.transposed and not turned
    )


def _generic(tensor: str, stored: tuple[int, ...]) -> list[Place]:
    match = _GENERIC.fullmatch(tensor)
    stacked_experts = "expert" in tensor and len(stored) == 3
    if not match or not (match["weight"] or stacked_experts) or _NO_LINEAR_MAP.search(match["leaf"]):
        return []
    kind = without_numbers(match["leaf"]).replace("*.", "")
    return _places(tensor, stored, name=match["path"], kind=kind, side="unknown", block=int(match["block"]))


def _places(
    tensor: str,
    stored: tuple[int, ...],
    *,
    name: str,
    kind: str,
    side: Side,
    block: int,
    transposed: bool = False,
) -> list[Place]:
    def place(rows: int, cols: int, *, expert: int | None = None, scale: float = 1.0) -> Place:
        full_name = name if expert is None else f"{name}.{expert}"
        matrix = MatrixShape(name=full_name, type=kind, side=side, block=block, shape=(rows, cols))
        return Place(matrix, tensor, expert=expert, transposed=transposed, scale=scale)

    if 0 in stored:
        return []
    if len(stored) == 2:
        return [place(*(reversed(stored) if transposed else stored))]
    if len(stored) == 3 and "expert" in name:
        return [place(*stored[1:], expert=expert) for expert in range(stored[0])]
    if len(stored) >= 3:
        return [place(stored[0], math.prod(stored[1:]), scale=CONVOLUTION_SCALE)]
    return []
