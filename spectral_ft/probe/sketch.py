"""Sketches of gradients: each gradient between two fixed random matrices, without ever being formed.

    S = P_out^T G P_in = (dY P_out)^T (X P_in)      G: (d_out, d_in), X: (tokens, d_in), dY: (tokens, d_out)

The entries of P, (d, k), are N(0, 1/k), so that E P P^T = I and E |S|_F^2 = |G|_F^2. There is one P for each side
and dimension: matrices that read (or write) spaces of one size are projected alike, and their sketches compare.

Source: random projections as in Johnson and Lindenstrauss 1984, on both sides of a matrix.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

Side = Literal["in", "out"]
"""Of a linear map: what it reads, what it gives."""
STREAMS = {"in": 0, "out": 1}
"""Part of the seed of each side's projections."""


def projection(dimension: int, side: Side, *, sketch_dim: int, seed: int) -> np.ndarray:
    """The random matrix that stands on one side of all gradients of this size.

    Args:
        dimension: d, of the space that is projected.
        side: Of the gradient.
        sketch_dim: k.
        seed: Of the run.

    Returns:
        float32 (d, k), the same for the same arguments.
    """
    generator = np.random.default_rng((seed, STREAMS[side], dimension))
    return generator.standard_normal((dimension, sketch_dim), dtype=np.float32) / np.float32(math.sqrt(sketch_dim))


class Sketches:
    """Sums of gradients' sketches, as the backward passes produce them: 4 k^2 bytes a matrix, and k^2 for the half."""

    def __init__(self, *, sketch_dim: int, seed: int) -> None:
        self._sketch_dim = sketch_dim
        self._seed = seed
        self._even = True
        self._projections: dict[tuple[int, Side, torch.device], torch.Tensor] = {}
        self._read: tuple[torch.Tensor, int] | None = None
        self._projected = torch.empty(0)
        self._sums: dict[str, torch.Tensor] = {}
        self._halves: dict[str, torch.Tensor] = {}

    def watch(self, name: str, inputs: torch.Tensor) -> Callable[[torch.Tensor], None]:
        """Project what a module reads.

        Args:
            name: Of the module.
            inputs: X, (..., d_in).

        Returns:
            What takes dY, (..., d_out), of this call.
        """
        projected = self._project_inputs(inputs)

        def add(gradient: torch.Tensor) -> None:
            sketch = self._project(gradient, "out").T @ projected
            if name not in self._sums:
                half = self._sketch_dim // 2
                self._sums[name] = torch.zeros_like(sketch)
                self._halves[name] = torch.zeros_like(sketch[:half, :half])
            self._sums[name] += sketch
            if self._even:
                half = len(self._halves[name])
                self._halves[name] += sketch[:half, :half]

        return add

    def end_batch(self) -> None:
        """Count the batch: the half is over every other one."""
        self._even = not self._even
        self._read, self._projected = None, torch.empty(0)

    def sums(self) -> dict[str, np.ndarray]:
        """The sketches so far.

        Returns:
            Module name to float32 (k, k), summed over the batches.
        """
        return {name: value.cpu().numpy() for name, value in self._sums.items()}

    def halves(self) -> dict[str, np.ndarray]:
        """The sketches of batches 0, 2, 4, ...

        Returns:
            Module name to the leading float32 (k / 2, k / 2), rounded down.
        """
        return {name: value.cpu().numpy() for name, value in self._halves.items()}

    def _project_inputs(self, inputs: torch.Tensor) -> torch.Tensor:
        # q, k and v read one tensor, gate and up another: each is projected once, unless it was changed in place.
        read = self._read
        if read is None or read[0] is not inputs or read[1] != inputs._version:
            self._projected = self._project(inputs, "in")
            self._read = (inputs, inputs._version)
        return self._projected

    def _project(self, values: torch.Tensor, side: Side) -> torch.Tensor:
        dimension, device = values.shape[-1], values.device
        key = (dimension, side, device)
        if key not in self._projections:
            drawn = projection(dimension, side, sketch_dim=self._sketch_dim, seed=self._seed)
            self._projections[key] = torch.from_numpy(drawn).to(device)
        return values.detach().reshape(-1, dimension).float() @ self._projections[key]
