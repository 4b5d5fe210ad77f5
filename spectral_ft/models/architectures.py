"""Which tensor of a checkpoint is which matrix: one table, by `model_type`.

A leaf is the module path inside a block. Its type is the last part, or the whole leaf where two
leaves end alike (GPT-2's two `c_proj`). The side says whether the matrix reads the residual stream
or writes it. A `model_type` that is not in the table gets generic rules and a warning.

Known gaps: Mixtral's experts, GPT-NeoX, BERT and T5 are not in the table yet.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from spectral_ft.errors import CheckpointError
from spectral_ft.types import MatrixShape, Side

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Architecture:
    """Where the block matrices of one family of models are."""

    blocks: str
    """Module path of the list of blocks."""
    readers: tuple[str, ...]
    """Leaves that read the residual stream."""
    writers: tuple[str, ...]
    """Leaves that write it."""
    transposed: bool = False
    """Weights are stored (d_in, d_out), as GPT-2's Conv1D does."""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches `PREFIX.BLOCK.LEAF.weight`, where the first part of the prefix may be missing."""
        head, _, tail = self.blocks.rpartition(".")
        prefix = rf"(?:{re.escape(head)}\.)?{re.escape(tail)}" if head else re.escape(tail)
        leaves = "|".join(re.escape(leaf) for leaf in (*self.readers, *self.writers))
        return re.compile(rf"{prefix}\.(?P<block>\d+)\.(?P<leaf>{leaves})\.weight")

    def type_of(self, leaf: str) -> str:
        """The module type of a leaf.

        Args:
            leaf: Module path inside a block.

        Returns:
            Its last part, or the whole leaf where the last part is ambiguous.
        """
        last = leaf.rpartition(".")[2]
        alike = [other for other in (*self.readers, *self.writers) if other.rpartition(".")[2] == last]
        return last if len(alike) == 1 else leaf

    def side_of(self, leaf: str) -> Side:
        """The side of a leaf.

        Args:
            leaf: Module path inside a block.

        Returns:
            `reads` or `writes`.
        """
        return "reads" if leaf in self.readers else "writes"


_LLAMA = Architecture(
    blocks="model.layers",
    readers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"),
    writers=("self_attn.o_proj", "mlp.down_proj"),
)
ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gpt2": Architecture(
        blocks="transformer.h",
        readers=("attn.c_attn", "mlp.c_fc"),
        writers=("attn.c_proj", "mlp.c_proj"),
        transposed=True,
    ),
    "falcon": Architecture(
        blocks="transformer.h",
        readers=("self_attention.query_key_value", "mlp.dense_h_to_4h"),
        writers=("self_attention.dense", "mlp.dense_4h_to_h"),
    ),
}

_GENERIC = re.compile(r"(?P<path>.*?\b(?:layers?|h|blocks?)\.(?P<block>\d+)\.(?P<leaf>.+))\.weight")


def block_matrices(model_type: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[MatrixShape, ...]:
    """The linear matrices inside the blocks, in the order of block and name.

    Args:
        model_type: As the checkpoint's `config.json` says.
        shapes: Tensor name to stored shape.

    Returns:
        One entry a matrix, with its module path, type, side, block and (d_out, d_in).

    Raises:
        CheckpointError: If there is none.
    """
    architecture = ARCHITECTURES.get(model_type)
    if architecture is None:
        log.warning(
            "model_type %r is not in the table of architectures (%s): taking every 2-D weight below a numbered "
            "layer, h or block, embeddings and norms left out; sides are unknown",
            model_type,
            ", ".join(ARCHITECTURES),
        )
        found = _generic(shapes)
    else:
        found = _from_table(architecture, shapes)
    if not found:
        raise CheckpointError(
            f"no block matrix found for model_type {model_type!r} among {len(shapes)} tensors, "
            f"the first of which are {', '.join(sorted(shapes)[:3])}."
        )
    return tuple(sorted(found, key=lambda matrix: (matrix.block, matrix.name)))


def _from_table(architecture: Architecture, shapes: Mapping[str, tuple[int, ...]]) -> list[MatrixShape]:
    found = []
    for tensor, stored in shapes.items():
        match = architecture.pattern.fullmatch(tensor)
        if match and len(stored) == 2:
            leaf, block = match["leaf"], int(match["block"])
            rows, cols = reversed(stored) if architecture.transposed else stored
            found.append(
                MatrixShape(
                    name=f"{architecture.blocks}.{block}.{leaf}",
                    type=architecture.type_of(leaf),
                    side=architecture.side_of(leaf),
                    block=block,
                    shape=(rows, cols),
                )
            )
    return found


def _generic(shapes: Mapping[str, tuple[int, ...]]) -> list[MatrixShape]:
    return [
        MatrixShape(
            name=match["path"],
            type=match["leaf"],
            side="unknown",
            block=int(match["block"]),
            shape=(stored[0], stored[1]),
        )
        for tensor, stored in shapes.items()
        if (match := _GENERIC.fullmatch(tensor))
        and len(stored) == 2
        and not re.search(r"norm|ln_|embed|wte|wpe|bias", match["leaf"])
    ]
