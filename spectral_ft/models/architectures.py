"""Which tensor of a checkpoint is which matrix: one table, by `model_type`.

A leaf is the module path inside a block; `*` in it stands for the number of an expert. Its type is the
shortest end of the path that no other leaf of the stack has (GPT-2's two are `attn.c_proj` and
`mlp.c_proj`); where a model has two stacks of blocks, the stack's name comes before it. The side says
whether the matrix reads the residual stream or writes it. A `model_type` that is not in the table gets
generic rules and a warning.
"""

import logging
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from spectral_ft.errors import CheckpointError
from spectral_ft.types import MatrixShape, Side

log = logging.getLogger(__name__)

CONVOLUTION_SCALE = math.sqrt(0.5)
"""Of a convolution that is flattened to (d_out, the rest); LoRA-AR and AlphaPruning, `conv_normalization`."""


@dataclass(frozen=True)
class Stack:
    """Where the matrices of one stack of blocks are."""

    blocks: str
    """Module path of the list of blocks."""
    readers: tuple[str, ...]
    """Leaves that read the residual stream."""
    writers: tuple[str, ...]
    """Leaves that write it."""
    prefix: str = ""
    """Module path before `blocks`, which some files leave out."""
    transposed: bool = False
    """Weights are stored (d_in, d_out), as GPT-2's Conv1D does."""
    label: str = ""
    """Stands before the types, where a model has several stacks."""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches `PREFIX.BLOCKS.NUMBER.LEAF.weight`; stacked experts have no `.weight`."""
        head = rf"(?:{re.escape(self.prefix)}\.)?" if self.prefix else ""
        leaves = "|".join(re.escape(leaf).replace(r"\*", r"\d+") for leaf in (*self.readers, *self.writers))
        return re.compile(rf"{head}{re.escape(self.blocks)}\.(?P<block>\d+)\.(?P<leaf>{leaves})(?:\.weight)?")

    def type_of(self, leaf: str) -> str:
        """The module type of a leaf.

        Args:
            leaf: Module path inside a block.

        Returns:
            The shortest end of it that is unambiguous, without an expert's number.
        """
        general = _without_numbers(leaf)
        others = [known.split(".") for known in (*self.readers, *self.writers) if known != general]
        parts = general.split(".")
        length = next(
            (n for n in range(1, len(parts)) if all(other[-n:] != parts[-n:] for other in others)), len(parts)
        )
        return ".".join(filter(None, (self.label, *(part for part in parts[-length:] if part != "*"))))

    def side_of(self, leaf: str) -> Side:
        """The side of a leaf.

        Args:
            leaf: Module path inside a block.

        Returns:
            `reads` or `writes`.
        """
        return "reads" if _without_numbers(leaf) in self.readers else "writes"


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


_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_LLAMA = (
    Stack(
        prefix="model",
        blocks="layers",
        readers=(*_ATTENTION, "mlp.gate_proj", "mlp.up_proj"),
        writers=("self_attn.o_proj", "mlp.down_proj"),
    ),
)
_PHI3 = (
    Stack(
        prefix="model",
        blocks="layers",
        readers=("self_attn.qkv_proj", "mlp.gate_up_proj"),
        writers=("self_attn.o_proj", "mlp.down_proj"),
    ),
)
# Files name the experts one by one; a loaded model has them stacked in one tensor.
_MIXTRAL = (
    Stack(
        prefix="model",
        blocks="layers",
        readers=(
            *_ATTENTION,
            "block_sparse_moe.gate",
            "block_sparse_moe.experts.*.w1",
            "block_sparse_moe.experts.*.w3",
            "mlp.gate",
            "mlp.experts.gate_up_proj",
        ),
        writers=("self_attn.o_proj", "block_sparse_moe.experts.*.w2", "mlp.experts.down_proj"),
    ),
)
_QWEN_MOE = (
    Stack(
        prefix="model",
        blocks="layers",
        readers=(
            *_ATTENTION,
            "mlp.gate",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.experts.*.gate_proj",
            "mlp.experts.*.up_proj",
            "mlp.experts.gate_up_proj",
            "mlp.shared_expert.gate_proj",
            "mlp.shared_expert.up_proj",
            "mlp.shared_expert_gate",
        ),
        writers=(
            "self_attn.o_proj",
            "mlp.down_proj",
            "mlp.experts.*.down_proj",
            "mlp.experts.down_proj",
            "mlp.shared_expert.down_proj",
        ),
    ),
)
_GPT2 = (
    Stack(
        prefix="transformer",
        blocks="h",
        readers=("attn.c_attn", "mlp.c_fc"),
        writers=("attn.c_proj", "mlp.c_proj"),
        transposed=True,
    ),
)
_FALCON = (
    Stack(
        prefix="transformer",
        blocks="h",
        readers=("self_attention.query_key_value", "mlp.dense_h_to_4h"),
        writers=("self_attention.dense", "mlp.dense_4h_to_h"),
    ),
)
_GPT_NEOX = (
    Stack(
        prefix="gpt_neox",
        blocks="layers",
        readers=("attention.query_key_value", "mlp.dense_h_to_4h"),
        writers=("attention.dense", "mlp.dense_4h_to_h"),
    ),
)
_BERT = (
    Stack(
        prefix="bert",
        blocks="encoder.layer",
        readers=("attention.self.query", "attention.self.key", "attention.self.value", "intermediate.dense"),
        writers=("attention.output.dense", "output.dense"),
    ),
)


def _t5_stack(label: str, attention: tuple[str, ...], feed_forward: str) -> Stack:
    inner = (f"{feed_forward}.wi", f"{feed_forward}.wi_0", f"{feed_forward}.wi_1")
    return Stack(
        blocks=f"{label}.block",
        label=label,
        readers=(*(f"{module}.{part}" for module in attention for part in "qkv"), *inner),
        writers=(*(f"{module}.o" for module in attention), f"{feed_forward}.wo"),
    )


_T5 = (
    _t5_stack("encoder", ("layer.0.SelfAttention",), "layer.1.DenseReluDense"),
    _t5_stack("decoder", ("layer.0.SelfAttention", "layer.1.EncDecAttention"), "layer.2.DenseReluDense"),
)

ARCHITECTURES: Mapping[str, tuple[Stack, ...]] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "phi3": _PHI3,
    "mixtral": _MIXTRAL,
    "qwen2_moe": _QWEN_MOE,
    "qwen3_moe": _QWEN_MOE,
    "gpt2": _GPT2,
    "falcon": _FALCON,
    "gpt_neox": _GPT_NEOX,
    "bert": _BERT,
    "t5": _T5,
}

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
    kind = _without_numbers(match["leaf"]).replace("*.", "")
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


def _without_numbers(leaf: str) -> str:
    return re.sub(r"(?<=experts\.)\d+(?=\.|$)", "*", leaf)
