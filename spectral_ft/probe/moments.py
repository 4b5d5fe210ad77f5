"""Second moments of what adapted matrices read, and of the gradients of what they give, in the update's own directions.

Of `C = sum x x^T` and `S = sum g g^T` only `Q^T C Q` and `P^T S P` are kept, of shape (k, k) for an update of rank k:
neither d_in^2 nor d_out^2 numbers are ever in memory.

Known gaps: convolutions are refused.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from spectral_ft.errors import DataError, PlanError
from spectral_ft.probe.modules import evaluation_mode, on_device, refuse_none, refuse_repacked
from spectral_ft.types import IGNORED


class Directions(NamedTuple):
    """The singular vectors of an update."""

    left: np.ndarray
    """P, (d_out, k)."""
    right: np.ndarray
    """Q, (d_in, k)."""


class Sums(NamedTuple):
    """Sums over the tokens that a matrix has seen."""

    inputs: np.ndarray
    """`Q^T C Q`, (k, k)."""
    inputs_trace: float
    outputs: np.ndarray
    """`P^T S P`, (k, k); zero without gradients."""
    outputs_trace: float
    tokens: int


class _Gauge:
    # Sums of one matrix.
    def __init__(self, directions: Directions, device: torch.device) -> None:
        size = directions.left.shape[1]
        self.left, self.right = (torch.from_numpy(np.asarray(d, np.float32)).to(device) for d in directions)
        self.inputs, self.outputs = (torch.zeros(size, size, dtype=torch.float64, device=device) for _ in range(2))
        self.traces, self.tokens = [0.0, 0.0], 0

    def read(self, values: torch.Tensor, mask: torch.Tensor | None) -> None:
        rows = values[mask] if mask is not None and mask.shape == values.shape[: mask.ndim] else values
        if not values.is_floating_point():  # an embedding reads numbers of tokens: unit vectors
            inside, trace = self.right[rows.reshape(-1)], float(rows.numel())
        else:
            rows = rows.reshape(-1, values.shape[-1]).float()
            inside, trace = rows @ self.right, float(rows.double().square().sum())
        self.inputs += inside.double().T @ inside.double()
        self.traces[0] += trace
        self.tokens += len(inside)

    def felt(self, gradient: torch.Tensor) -> None:
        rows = gradient.reshape(-1, gradient.shape[-1]).float()
        inside = (rows @ self.left).double()
        self.outputs += inside.T @ inside
        self.traces[1] += float(rows.double().square().sum())


def update_moments(
    model: torch.nn.Module,
    batches: Sequence[Mapping[str, torch.Tensor]],
    directions: Mapping[str, Directions],
    *,
    modules: Mapping[str, torch.nn.Module],
    gradients: bool,
) -> dict[str, Sums]:
    """Run batches through an adapted model, and sum the moments.

    The loss is summed over tokens, so that each has the same weight whatever the size of its batch. Tokens that the
    attention mask leaves out do not count.

    Args:
        model: With the adapter on, on one device. No parameter or mode of it changes.
        batches: Arguments of its forward, labels among them.
        directions: Module path to the singular vectors of its update.
        modules: Module path to the module that reads x and gives y.
        gradients: Whether the gradients of the outputs are summed too.

    Returns:
        Module path to the sums; zeros for a module that saw nothing.

    Raises:
        DataError: If there is no batch, or a loss is not finite.
        PlanError: If a module does not read vectors of the size of its directions.
    """
    refuse_none(batches)
    refuse_repacked(model)
    device: torch.device = model.device  # type: ignore[assignment]
    gauges = {name: _Gauge(own, device) for name, own in directions.items()}
    root = torch.zeros((), device=device, requires_grad=gradients)
    masks: list[torch.Tensor | None] = [None]
    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(model))
        stack.enter_context(torch.enable_grad() if gradients else torch.no_grad())
        for name, gauge in gauges.items():
            hook = _hook(name, gauge, root=root, masks=masks)
            stack.callback(modules[name].register_forward_hook(hook).remove)
        for number, batch in enumerate(tqdm(batches, desc="moments", unit="batch", leave=False, disable=None)):
            given = on_device(batch, model)  # type: ignore[arg-type]
            config: Any = model.config
            # An encoder-decoder's decoder reads other tokens than the mask is of.
            masks[0] = None if config.is_encoder_decoder else given.get("attention_mask", torch.ones(1)).bool()
            loss = model(**given).loss
            if loss is None or not torch.isfinite(loss):
                raise DataError(
                    f"calibration batch {number} has the loss {None if loss is None else loss.item()}: its labels are "
                    "missing or all masked, or the model overflows in this precision."
                )
            if gradients:
                count = max(int((given["labels"] != IGNORED).sum()), 1)
                torch.autograd.grad(loss * count, root)  # unlike backward(), touches no parameter's .grad
    return {
        name: Sums(g.inputs.cpu().numpy(), g.traces[0], g.outputs.cpu().numpy(), g.traces[1], g.tokens)
        for name, g in gauges.items()
    }


def _hook(name: str, gauge: _Gauge, *, root: torch.Tensor, masks: list[torch.Tensor | None]) -> Any:
    def forward_hook(module: torch.nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        del module
        values = arguments[0].detach()
        if values.is_floating_point() and values.shape[-1] != len(gauge.right):
            raise PlanError(
                f"{name} reads a tensor of shape {tuple(values.shape)}, not vectors of {len(gauge.right)} numbers: use "
                "weighting=none."
            )
        with torch.no_grad():
            gauge.read(values, masks[0])
        if not root.requires_grad:
            return None
        output = output + root  # a zero that requires a gradient: backward ends at the lowest watched module
        output.register_hook(lambda gradient: gauge.felt(gradient.detach()))
        return output

    return forward_hook
