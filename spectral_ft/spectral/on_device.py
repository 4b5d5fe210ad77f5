"""The same decomposition through torch, for a GPU: one matrix at a time, widened piece by piece.

Known gaps: checked on torch's CPU backend alone; no GPU was at hand.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_ft.spectral.decomposition import Solver, Squared
from spectral_ft.spectral.smallest import agrees, needs_refinement

if TYPE_CHECKING:
    import torch

BLOCK_ENTRIES = 1 << 24
"""Of the weights, widened at a time: 128 MiB of device memory."""
INVERSE_STEPS, CONVERGED = 1000, 1e-13
"""Of the iteration that finds the smallest singular value's direction: at most, and when it has."""


def with_torch(device: str) -> Solver:
    """A solver that computes where torch can.

    Args:
        device: As torch calls it: `cuda`, `cuda:1`, `cpu`.

    Returns:
        The solver; device memory holds the weights as stored, their Gram matrix twice and one piece.
    """

    def solve(weights: np.ndarray, *, scale: float, dtype: np.dtype[Any]) -> Squared:
        import torch

        kind = torch.float64 if dtype == np.float64 else torch.float32
        on_device = _on_device(weights, device)
        tall = weights.shape[0] > weights.shape[1]
        m = min(weights.shape)
        gram = torch.zeros((m, m), dtype=kind, device=device)
        total = torch.zeros((), dtype=torch.float64, device=device)
        for piece in on_device.split(max(1, BLOCK_ENTRIES // m), dim=0 if tall else 1):
            block = piece.to(kind) / scale
            total += block.sum(dtype=torch.float64)
            gram.addmm_(block.T if tall else block, block if tall else block.T)
        trace = float(gram.diagonal().sum(dtype=torch.float64))
        if not np.isfinite(trace):
            return Squared(np.empty(0), trace, float(total))
        found = torch.linalg.eigvalsh(gram).cpu().numpy()
        if needs_refinement(found) and (direction := _smallest_direction(gram)) is not None:
            pieces = (
                piece.to(kind) / scale for piece in on_device.split(max(1, BLOCK_ENTRIES // m), dim=0 if tall else 1)
            )
            images = (piece @ direction if tall else direction @ piece for piece in pieces)
            squared = sum(float((image**2).sum()) for image in images)
            if agrees(squared, found):
                found[0] = min(squared, found[1])
        return Squared(found, trace, float(total))

    return solve


def _smallest_direction(gram: "torch.Tensor") -> "torch.Tensor | None":
    # By inverse iteration; `gram` is destroyed. None where it does not converge: the eigenvalue stays as it was.
    import torch

    factor, status = torch.linalg.cholesky_ex(gram, out=(gram, torch.empty((), dtype=torch.int32, device=gram.device)))
    if int(status):
        return None
    direction = torch.ones((len(gram), 1), dtype=gram.dtype, device=gram.device)
    before = 0.0
    for _ in range(INVERSE_STEPS):
        direction = torch.cholesky_solve(direction, factor)
        length = float(direction.norm())
        direction /= length
        if abs(length - before) <= CONVERGED * length:
            return direction[:, 0]
        before = length
    return None


def _on_device(weights: np.ndarray, device: str) -> "torch.Tensor":
    import torch

    values = torch.from_numpy(np.require(weights, requirements=["C", "W"]))
    return (values.view(torch.bfloat16) if weights.dtype == np.uint16 else values).to(device)
