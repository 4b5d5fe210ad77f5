"""Gradients of a frozen model's matrices on calibration batches: their norms and their sketches.

G_b = dLoss_b / dW = dY^T X for the mean loss of batch b and W of shape (d_out, d_in), whatever the module's own
orientation or packing: a hook on a linear module sees X as it is read and dY as backward comes by, which is all that
the norm (`norms.py`) and the sketch (`sketch.py`) need. The parameters get no gradient.

Known gaps: stacked experts are parameters, no linear modules, and are refused.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from spectral_ft.errors import DataError, PlanError
from spectral_ft.probe.modules import evaluation_mode, linear_modules, on_device, refuse_none, refuse_repacked
from spectral_ft.probe.norms import SquaredNorms
from spectral_ft.probe.sketch import Sketches


class GradientProbe(NamedTuple):
    """What the gradients were; a dictionary is empty where it was not asked for."""

    norms: dict[str, float]
    """Module name to the mean over batches of |G_b|_F^2 / (d_in d_out)."""
    sketches: dict[str, np.ndarray]
    """Module name to the sum over batches of P_out^T G_b P_in, float32 (k, k)."""
    half_sketches: dict[str, np.ndarray]
    """The leading (k / 2, k / 2) of the same sum over batches 0, 2, 4, ..."""


class Gauge(Protocol):
    """What is made of the gradients."""

    def watch(self, name: str, inputs: torch.Tensor) -> Callable[[torch.Tensor], None]:
        """Take what a module reads; the result takes the gradient of what it gives."""
        ...

    def end_batch(self) -> None:
        """Note that the gradients of a batch are complete."""
        ...


def probe_gradients(
    model: PreTrainedModel,
    batches: Sequence[Mapping[str, torch.Tensor]],
    names: Sequence[str],
    *,
    norms: bool,
    sketch_dim: int | None,
    seed: int,
) -> GradientProbe:
    """Run the batches forward and backward, and measure the gradients of some matrices.

    Args:
        model: Frozen or not; on one device. Nothing of it changes: parameters, their `grad`, modes, hooks.
        batches: Arguments of its forward, labels among them.
        names: Linear modules; results do not depend on their order.
        norms: Measure the norms; what the modules read is then kept from forward to backward.
        sketch_dim: k of the sketches, also above a matrix's smaller side; None makes none. 5 k^2 bytes a matrix are
            stored.
        seed: Of the projections.

    Returns:
        What was asked for, of every name.

    Raises:
        PlanError: If a name is no linear module, or got no gradient from any batch.
        CheckpointError: If a 4-bit model has been evaluated on a CPU in a way that lets no gradient pass.
        DataError: If there is no batch, a batch has no labels, or a loss or a gradient is not finite.
    """
    refuse_none(batches)
    refuse_repacked(model)
    modules = linear_modules(model, names)
    squares, sketches = SquaredNorms(), Sketches(sketch_dim=sketch_dim or 0, seed=seed)
    wanted: tuple[tuple[Gauge, bool], ...] = ((squares, norms), (sketches, sketch_dim is not None))
    gauges = [gauge for gauge, asked in wanted if asked]
    root = torch.zeros((), device=model.device, requires_grad=True)
    reached: set[str] = set()
    with ExitStack() as stack, torch.enable_grad():
        stack.enter_context(evaluation_mode(model))
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(_hook(name, gauges, root=root, reached=reached)).remove)
        for number, batch in enumerate(tqdm(batches, desc="gradients", unit="batch", leave=False, disable=None)):
            _run(model, batch, number=number, root=root)
            for gauge in gauges:
                gauge.end_batch()
    lost = [name for name in modules if name not in reached]
    if lost:
        raise PlanError(
            f"{lost[0]} got no gradient in {len(batches)} calibration batches ({len(lost)} such of {len(modules)}): "
            f"the loss of this {type(model).__name__} does not depend on it. Leave it out."
        )
    found = GradientProbe(squares.means(), sketches.sums(), sketches.halves())
    _check_finite(found)
    return found


def _hook(name: str, gauges: list[Gauge], *, root: torch.Tensor, reached: set[str]) -> Callable[..., torch.Tensor]:
    def forward_hook(module: torch.nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        del module
        takers = [gauge.watch(name, arguments[0]) for gauge in gauges]

        def backward_hook(gradient: torch.Tensor) -> None:
            reached.add(name)
            for take in takers:
                take(gradient)

        # A zero that requires a gradient. What is frozen asks for none, so this is where backward ends: below the
        # lowest watched module nothing is computed, and of that one no gradient of its input.
        output = output + root
        output.register_hook(backward_hook)
        return output

    return forward_hook


def _run(model: PreTrainedModel, batch: Mapping[str, torch.Tensor], *, number: int, root: torch.Tensor) -> None:
    loss = model(**on_device(batch, model)).loss
    if loss is None:
        raise DataError(f"calibration batch {number} has no labels, only {', '.join(batch)}: there is no loss.")
    if not torch.isfinite(loss):
        raise DataError(
            f"the loss of calibration batch {number} is {loss.item()}: its labels are all masked, or the model "
            "overflows in this precision."
        )
    if loss.requires_grad:
        torch.autograd.grad(loss, root, allow_unused=True)  # unlike backward(), touches no parameter's .grad


def _check_finite(found: GradientProbe) -> None:
    for part in (found.norms, found.sketches):
        for name, value in part.items():
            if not np.isfinite(value).all():
                raise DataError(
                    f"the gradient of {name} is not finite, though the losses of the calibration batches are: the "
                    "model overflows in this precision."
                )
