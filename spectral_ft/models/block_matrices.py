"""The block matrices of one model, wherever its tensors are: their shapes, and their weights one at a time."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from spectral_ft.bfloat16 import widened
from spectral_ft.errors import CheckpointError
from spectral_ft.models.packed import unpacked
from spectral_ft.models.places import Layout, Place, block_matrices, is_block_matrix
from spectral_ft.models.tensors import Contents, Tensor
from spectral_ft.types import MatrixShape

FindMatrices = Callable[[dict[str, tuple[int, ...] | None], list[str], list[str]], Layout]
"""Finds matrices, given shapes by tensor (None: damaged), the tensors that hold codes, and those that are packed."""


@dataclass(frozen=True)
class BlockMatrices:
    """The linear matrices of a model's blocks."""

    origin: str
    """What an error calls the model."""
    model_type: str
    contents: Contents
    dequantize: bool = False
    """Read packed weights as what they stand for; otherwise they are refused."""
    find: FindMatrices | None = None
    """Compares the tensors with the model's modules; None finds matrices by the names of the tensors."""

    @cached_property
    def matrices(self) -> tuple[MatrixShape, ...]:
        """In the order of block and name."""
        return tuple(place.matrix for place in self._places.values())

    @cached_property
    def faults(self) -> dict[str, str]:
        """Name to a sentence, for each block matrix that should be there and is not, or is there twice."""
        damaged = self._read_as.faults
        if self._layout.not_compared is not None:
            return {name: fault for name, fault in damaged.items() if is_block_matrix(self.model_type, name)}
        return {name: damaged[tensor] for name, tensor in self._layout.unread.items()} | self._layout.missing

    def limited_to(self, contents: Contents) -> "BlockMatrices | None":
        """The same matrices in other tensors of the same names, as far as they are there.

        Args:
            contents: The other tensors.

        Returns:
            The matrices whose tensors are all there; None if there are none.
        """
        places = tuple(
            place for place in self._layout.places if {place.tensor, *place.further} <= set(contents.tensors)
        )
        if not places:
            return None
        kept = replace(self._layout, places=places, missing={}, unread={})
        return BlockMatrices(self.origin, self.model_type, contents, find=lambda shapes, codes, packed: kept)

    @property
    def tensor_names(self) -> set[str]:
        """Names of the tensors that hold the matrices."""
        return {place.tensor for place in self._places.values()}

    def read(self, matrix: MatrixShape) -> np.ndarray:
        """Read one matrix.

        Args:
            matrix: One of `matrices`.

        Returns:
            Floats, or the bits of bf16 as uint16; (d_out, d_in).

        Raises:
            CheckpointError: If there is no such matrix, or its file is truncated.
        """
        place = self._place(matrix)
        weights = self._tensors[place.tensor].read(place.expert)
        if place.further:
            weights = np.concatenate([weights, *(self._tensors[tensor].read() for tensor in place.further)])
        if weights.ndim > 2:
            weights = weights.reshape(len(weights), -1)
        if place.transposed:
            weights = weights.T
        if place.rows is not None:
            weights = weights[slice(*place.rows)]
        if place.scale != 1:
            values = widened(weights)
            weights = values * values.dtype.type(place.scale)
        return weights

    def stored_bytes(self, matrix: MatrixShape) -> int:
        """What `read` takes.

        Args:
            matrix: One of `matrices`.

        Returns:
            Bytes.
        """
        bits = "".join(filter(str.isdigit, self._tensors[self._place(matrix).tensor].dtype))
        return math.prod(matrix.sides) * int(bits or 32) // 8

    @cached_property
    def _read_as(self) -> Contents:
        return unpacked(self.contents) if self.dequantize else self.contents

    @property
    def _tensors(self) -> dict[str, Tensor]:
        return self._read_as.tensors

    @cached_property
    def _layout(self) -> Layout:
        if self.find is None:
            return Layout(not_compared="by name")
        shapes: dict[str, tuple[int, ...] | None] = {name: tensor.shape for name, tensor in self._tensors.items()}
        shapes |= dict.fromkeys(self._read_as.faults)
        codes = [name for name, tensor in self._tensors.items() if not tensor.is_float]
        packed = [name for name, tensor in self._tensors.items() if tensor.is_packed]
        return self.find(shapes, codes, packed)

    @cached_property
    def _places(self) -> dict[str, Place]:
        found = self._layout.places
        if self._layout.not_compared is not None:
            found = block_matrices(
                self.model_type,
                {name: tensor.shape for name, tensor in self._tensors.items()},
                packed={name for name, tensor in self._tensors.items() if tensor.is_packed},
            )
        elif not found:
            first = next(iter(self.faults.values()), f"{self.origin} has no matrix inside a numbered block.")
            raise CheckpointError(first)
        for place in found:
            tensor = self._tensors[place.tensor]
            if not tensor.is_float:
                raise CheckpointError(
                    f"{place.tensor} of {self.origin} has numbers of type {tensor.dtype}: it is quantized, and a "
                    "spectrum of its codes would mean nothing. Point model.path at the unquantized checkpoint; "
                    "spectrum.dequantize=true analyses what bitsandbytes' 4-bit and 8-bit weights stand for."
                )
        return {place.matrix.name: place for place in found}

    def _place(self, matrix: MatrixShape) -> Place:
        if matrix.name not in self._places:
            raise CheckpointError(f"{self.origin} has no matrix {matrix.name}.")
        return self._places[matrix.name]
