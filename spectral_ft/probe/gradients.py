"""Gradients of a frozen model's matrices on calibration batches: their norms and their sketches.

G_b = dLoss_b / dW = dY^T X for the mean loss of batch b and W of shape (d_out, d_in), whatever the module's own
orientation or packing: a hook on a linear module sees X as it is read and dY as backward comes by, which is all that
the norm (`norms.py`) and the sketch (`sketch.py`) need. The parameters get no gradient. Blocks are recomputed in
backward, as activation checkpointing does it: since all matrices are watched, all activations would be kept otherwise.

Known gaps: stacked experts are parameters, no linear modules, and are refused.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.checkpoint import set_checkpoint_early_stop
from tqdm import tqdm
from transformers import PreTrainedModel

from spectral_ft.errors import DataError, PlanError
from spectral_ft.probe.modules import (
    evaluation_mode,
    linear_modules,
    on_device,
    recomputed_blocks,
    refuse_none,
    refuse_repacked,
)
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
        for parameter in [parameter for parameter in model.parameters() if parameter.requires_grad]:
            stack.callback(parameter.requires_grad_, True)
            parameter.requires_grad_(False)
        recomputed = stack.enter_context(recomputed_blocks(model))
        calls = {name: _Calls(name, gauges) for name, module in modules.items() if module in recomputed}
        for name, module in modules.items():
            hook = _hook(name, gauges, root=root, reached=reached, calls=calls.get(name))
            stack.callback(module.register_forward_hook(hook).remove)
        for number, batch in enumerate(tqdm(batches, desc="gradients", unit="batch", leave=False, disable=None)):
            _run(model, batch, number=number, root=root, calls=calls.values())
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


class _Calls:
    """The calls of a module in a block that is recomputed: its inputs are seen in backward, and not kept until then.

    A block is recomputed when backward first needs something of it, which may be after the gradient of its last module.
    """

    def __init__(self, name: str, gauges: list[Gauge]) -> None:
        self._name = name
        self._gauges = gauges
        self.begin()

    def begin(self) -> None:
        """Note that a batch begins."""
        self.is_backward = False
        self._count = 0
        self._inputs: list[torch.Tensor] = []
        self._takers: list[list[Callable[[torch.Tensor], None]]] = []
        self._gradients: dict[int, torch.Tensor] = {}

    def call(self) -> int:
        # Its number, in the forward pass.
        self._count += 1
        return self._count - 1

    def repeat(self, inputs: torch.Tensor) -> None:
        """Note the inputs of the next call, as they are computed again."""
        self._inputs.append(inputs)
        if self._count == 1:  # so that the gauge notices if they change in place
            self._takers.append(self._watch(inputs))
        self._settle()

    def gradient(self, call: int, gradient: torch.Tensor) -> None:
        """Note the gradient of a call."""
        self._gradients[call] = gradient
        self._settle()

    def _watch(self, inputs: torch.Tensor) -> list[Callable[[torch.Tensor], None]]:
        return [gauge.watch(self._name, inputs) for gauge in self._gauges]

    def _settle(self) -> None:
        # A module that is called several times has one gradient: its calls are handed over together, in backward order.
        if min(len(self._inputs), len(self._gradients)) == self._count:
            self.end()

    def end(self) -> None:
        """Hand over what is there: of some calls there may be no gradient."""
        if len(self._inputs) < len(self._gradients):
            return
        takers = self._takers if self._count == 1 else [self._watch(inputs) for inputs in self._inputs]
        for call, gradient in self._gradients.items():
            for take in takers[call]:
                take(gradient)
        self._inputs, self._takers, self._gradients = [], [], {}


def _hook(
    name: str, gauges: list[Gauge], *, root: torch.Tensor, reached: set[str], calls: _Calls | None
) -> Callable[..., torch.Tensor]:
    def forward_hook(module: torch.nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        del module
        # A zero that requires a gradient. What is frozen asks for none, so this is where backward ends: below the
        # lowest watched module nothing is computed, and of that one no gradient of its input.
        output = output + root
        # The lowest modules need no gradient of what they read: backward may end at them without a recomputation.
        if calls is None or not arguments[0].requires_grad:
            if calls is not None and calls.is_backward:
                return output
            takers = [gauge.watch(name, arguments[0]) for gauge in gauges]
        elif calls.is_backward:
            calls.repeat(arguments[0].detach())
            return output
        else:
            takers = [partial(calls.gradient, calls.call())]

        def backward_hook(gradient: torch.Tensor) -> None:
            reached.add(name)
            for take in takers:
                take(gradient)

        output.register_hook(backward_hook)
        return output

    return forward_hook


def _run(
    model: PreTrainedModel,
    batch: Mapping[str, torch.Tensor],
    *,
    number: int,
    root: torch.Tensor,
    calls: Collection[_Calls],
) -> None:
    for one in calls:
        one.begin()
    # A cache of keys and values would be filled twice where blocks are recomputed.
    options = {"use_cache": False} if getattr(getattr(model, "config", None), "use_cache", False) else {}
    with set_checkpoint_early_stop(False):  # the hook of a block's last module must run again too
        loss = model(**on_device(batch, model), **options).loss
    if loss is None:
        raise DataError(f"calibration batch {number} has no labels, only {', '.join(batch)}: there is no loss.")
    if not torch.isfinite(loss):
        raise DataError(
            f"the loss of calibration batch {number} is {loss.item()}: its labels are all masked, or the model "
            "overflows in this precision."
        )
    for one in calls:
        one.is_backward = True
    if loss.requires_grad:
        torch.autograd.grad(loss, root, allow_unused=True)  # unlike backward(), touches no parameter's .grad
    for one in calls:
        one.end()


def _check_finite(found: GradientProbe) -> None:
    for part in (found.norms, found.sketches):
        for name, value in part.items():
            if not np.isfinite(value).all():
                raise DataError(
                    f"the gradient of {name} is not finite, though the losses of the calibration batches are: the "
                    "model overflows in this precision."
                )
