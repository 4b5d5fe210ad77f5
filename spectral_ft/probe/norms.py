"""Exact norms of gradients, from what a module reads and the gradient of what it gives.

    |G|_F^2 = |dY^T X|_F^2 = sum((X X^T) o (dY dY^T))      X: (T, d_in), dY: (T, d_out), T tokens

The second form is the cheaper one where the tokens are few. Both are computed in blocks of rows, so that neither G
nor a T x T matrix is ever whole; of the symmetric T x T matrices only the blocks on and above the diagonal.

Source: the second form is that of ghost clipping, arXiv:2110.05679, section 4, with all tokens as one example.
"""

from collections import Counter, defaultdict
from collections.abc import Callable

import torch

from spectral_ft.errors import PlanError

ROWS = 256
"""Of a block."""


def squared_norm(inputs: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Square of the Frobenius norm of a linear map's gradient, by the cheaper form.

    Args:
        inputs: X, (T, d_in), float32 or float64.
        gradient: dY, (T, d_out), in the same dtype.

    Returns:
        A float64 scalar, on their device.
    """
    (tokens, d_in), d_out = inputs.shape, gradient.shape[1]
    if (tokens + min(tokens, ROWS)) * (d_in + d_out) < 2 * d_in * d_out:
        return squared_norm_by_tokens(inputs, gradient)
    return squared_norm_by_rows(inputs, gradient)


def squared_norm_by_rows(inputs: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The norm from G, some of its rows at a time: 2 T d_in d_out operations.

    Args:
        inputs: As for `squared_norm`.
        gradient: As for `squared_norm`.

    Returns:
        As `squared_norm`.
    """
    total = inputs.new_zeros((), dtype=torch.float64)
    for columns in gradient.split(ROWS, dim=1):
        total += torch.linalg.vector_norm(columns.T @ inputs).double().square()
    return total


def squared_norm_by_tokens(inputs: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The norm from the tokens' Gram matrices, their upper halves: T (T + ROWS) (d_in + d_out) operations.

    Args:
        inputs: As for `squared_norm`.
        gradient: As for `squared_norm`.

    Returns:
        As `squared_norm`.
    """
    total = inputs.new_zeros((), dtype=torch.float64)
    for start in range(0, len(inputs), ROWS):
        block = slice(start, start + ROWS)
        products = (inputs[block] @ inputs[start:].T) * (gradient[block] @ gradient[start:].T)
        total += 2 * products.sum().double() - products[:, :ROWS].sum().double()
    return total


class SquaredNorms:
    """Means over batches of |G|_F^2 / entries, as the backward passes produce the gradients."""

    def __init__(self) -> None:
        self._batches = 0
        self._calls: Counter[str] = Counter()
        self._seen: defaultdict[str, list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)
        self._sums: dict[str, torch.Tensor] = {}

    def watch(self, name: str, inputs: torch.Tensor) -> Callable[[torch.Tensor], None]:
        """Keep what a module reads until its gradient comes.

        Args:
            name: Of the module.
            inputs: X, (..., d_in).

        Returns:
            What takes dY, (..., d_out), of this call; raises PlanError if X has changed by then.
        """
        self._calls[name] += 1
        kept, version = inputs.detach(), inputs._version

        def add(gradient: torch.Tensor) -> None:
            if kept._version != version:
                raise PlanError(
                    f"what {name} reads is changed in place after it was read, so the norm of its gradient cannot be "
                    "computed: leave it out, or choose by something else than gradients."
                )
            self._seen[name].append((kept, gradient.detach()))
            if len(self._seen[name]) == self._calls[name]:
                self._settle(name)

        return add

    def end_batch(self) -> None:
        """Count the batch, and the modules of which some calls had no part in the loss."""
        for name in list(self._seen):
            self._settle(name)
        self._calls.clear()
        self._batches += 1

    def means(self) -> dict[str, float]:
        """The norms so far.

        Returns:
            Module name to the mean over batches of |G|_F^2 / (d_in d_out).
        """
        return {name: float(total) / self._batches for name, total in self._sums.items()}

    def _settle(self, name: str) -> None:
        # The gradient of a module that is called several times is one sum, so its calls' tokens are put together.
        calls = self._seen.pop(name)
        inputs = torch.cat([x.reshape(-1, x.shape[-1]) for x, _ in calls]).float()
        gradient = torch.cat([dy.reshape(-1, dy.shape[-1]) for _, dy in calls]).float()
        value = squared_norm(inputs, gradient) / (inputs.shape[1] * gradient.shape[1])
        self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
