"""Where the matrices of one stack of blocks are: what a line of the table of architectures says.

A leaf is the module path inside a block; `*` in it stands for the number of an expert. Its type is the
shortest end of the path that no other leaf of the stack has (GPT-2's two are `attn.c_proj` and
`mlp.c_proj`); where a model has two stacks of blocks, the stack's name comes before it. The side says
whether the matrix reads the residual stream or writes it.
"""

import re
from dataclasses import dataclass
from functools import cached_property

from spectral_ft.types import Side


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

    def knows(self, leaf: str) -> bool:
        """Whether the table has a leaf.

        Args:
            leaf: Module path inside a block.

        Returns:
            True if it reads or writes the residual stream.
        """
        return without_numbers(leaf) in (*self.readers, *self.writers)

    def type_of(self, leaf: str) -> str:
        """The module type of a leaf.

        Args:
            leaf: Module path inside a block.

        Returns:
            The shortest end of it that is unambiguous, without an expert's number.
        """
        general = without_numbers(leaf)
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
        return "reads" if without_numbers(leaf) in self.readers else "writes"


def without_numbers(leaf: str) -> str:
    """A leaf as the table has it.

    Args:
        leaf: Module path inside a block.

    Returns:
        The path with `*` for the number of an expert.
    """
    return re.sub(r"(?<=experts\.)\d+(?=\.|$)", "*", leaf)
