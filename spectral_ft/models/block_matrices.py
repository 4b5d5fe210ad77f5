"""The block matrices of one model, wherever its tensors are: their shapes, and their weights one at a time."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spectral_ft.bfloat16 import widened
from spectral_ft.errors import CheckpointError
from spectral_ft.models.packed import unpacked
from spectral_ft.models.places import Place, block_matrices, is_block_matrix
from spectral_ft.models.tensors import Contents, Tensor
from spectral_ft.types import MatrixShape


@dataclass(frozen=True)
class BlockMatrices:
    """The linear matrices of a model's blocks."""

    origin: str
    """What an error calls the model."""
    model_type: str
    contents: Contents
    dequantize: bool = False
    """Read packed weights as what they stand for; otherwise they are refused."""

    @cached_property
    def matrices(self) -> tuple[MatrixShape, ...]:
        """In the order of block and name."""
        return tuple(place.matrix for place in self._places.values())

    @cached_property
    def faults(self) -> dict[str, str]:
        """Tensor name to a sentence, for each block matrix that should be there and is not, or is there twice."""
        return {name: fault for name, fault in self._read_as.faults.items() if is_block_matrix(self.model_type, name)}

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
        if weights.ndim > 2:
            weights = weights.reshape(len(weights), -1)
        if place.transposed:
            weights = weights.T
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
    def _places(self) -> dict[str, Place]:
        found = block_matrices(
            self.model_type,
            {name: tensor.shape for name, tensor in self._tensors.items()},
            packed={name for name, tensor in self._tensors.items() if tensor.is_packed},
        )
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
