"""Estimated memory and arithmetic of a training step, from the shapes of a model: no weights, no GPU.

Parameters, gradients and optimizer state are counted. For the activations one forward and backward pass
runs on fake tensors, which have a shape, a dtype and the size of their storage but no contents; every
storage is followed from the operation that makes it until it is freed, and the largest sum alive at a time
is the estimate. So the copies that the loss makes of the logits, blocks below the lowest adapter, shared
storages and checkpointing need no rules of their own. The same pass counts floating-point operations (a
multiplication with an addition is two), by torch's own formulas for products and attention.

Attention (`sdpa`) is counted as a fused kernel, which never holds the (length x length) probabilities: what
a GPU runs, and a CPU too where attention has no dropout.

Known gaps: workspaces inside kernels and what an allocator loses to fragments and rounding are not seen;
mixed precision follows the CPU's list of operations, in which LayerNorm stays in 16 bits; what depends on
values counts as its larger side, so a mask always holds padding, and without one a model that looks for
packed sequences finds them.
"""

import copy
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from spectral_ft.errors import DataError, PlanError, SpectralFTError
from spectral_ft.training.backward import BackwardPath, watched_backward


class FootprintNotEstimated(SpectralFTError):  # noqa: N818 - reads as what happened
    """The model's code cannot run without the contents of its tensors."""


@dataclass(frozen=True)
class StepFootprint:
    """What a training step takes: the bytes that it holds at most, by part; its arithmetic; how far backward goes.

    The parts stand beside one another when gradients are accumulated over micro batches; without that the
    gradients grow only while the activations shrink, and their sum is an upper bound.
    """

    base: int
    """Bytes of the parameters that the model had before it was adapted."""
    adapters: int
    """Bytes of the parameters that were added, trained or not."""
    gradients: int
    """Bytes: as many and as wide as the trainable parameters."""
    optimizer: int
    """Bytes of its state."""
    activations: int
    """Bytes of all else: what backward needs, logits, temporary copies, at the worst moment."""
    flops: int
    """Operations in the products and attentions of one forward and backward pass."""
    path: BackwardPath
    """How far backward goes."""

    @property
    def total(self) -> int:
        """Bytes: the sum of the parts."""
        return self.base + self.adapters + self.gradients + self.optimizer + self.activations


def estimate_footprint(
    model: torch.nn.Module,
    batch: Mapping[str, torch.Tensor],
    *,
    base: Mapping[str, torch.nn.Parameter],
    quantized: Mapping[str, float],
    optimizer_bytes: float,
    autocast: torch.dtype | None,
    through_all: bool = False,
) -> StepFootprint:
    """Memory and arithmetic of training an adapted model on micro batches of one size.

    Args:
        model: Adapted, its dtypes and `requires_grad` as in training, not quantized, usually on the meta
            device; only read. Activation checkpointing is counted where it is switched on.
        batch: What the model is called with, labels included; only shapes and dtypes are read. Give the
            attention mask as the collator does: the batch then counts as padded.
        base: Name to parameter of the model before it was adapted; tied ones once.
        quantized: Name of a base module whose weight will be quantized to bits an entry, block scales
            included: 4.127 for NF4 with double quantization, 4.5 without, 8 + 32 / d_in for int8. Empty
            where nothing is.
        optimizer_bytes: State a trainable parameter: 8 for AdamW in float32, 2 in 8 bits.
        autocast: Of mixed precision: bfloat16 or float16; None for none.
        through_all: Let backward run down to the embeddings, as it does where they are told to require gradients.

    Returns:
        The estimate. One dequantized copy of the largest quantized matrix counts as an activation.

    Raises:
        PlanError: If nothing is trainable, or a quantized module is not in the base.
        DataError: If the batch has no labels.
        FootprintNotEstimated: If the model's code asks for values.
    """
    if unknown := [name for name in quantized if f"{name}.weight" not in base]:
        raise PlanError(
            f"{len(unknown)} of {len(quantized)} quantized modules have no weight in the base model, the first is "
            f"{unknown[0]!r}: give the module paths of the base, such as {next(iter(base)).rpartition('.')[0]!r}."
        )
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise PlanError(f"no parameter of {type(model).__name__} is trainable: there is no training to estimate.")
    old = {id(parameter) for parameter in base.values()}
    bits = {f"{name}.weight": width for name, width in quantized.items()}
    live, path = _step(model, batch, autocast, through_all=through_all)
    return StepFootprint(
        base=sum(_stored_bytes(parameter, bits.get(name)) for name, parameter in base.items()),
        adapters=sum(parameter.nbytes for parameter in model.parameters() if id(parameter) not in old),
        gradients=sum(parameter.nbytes for parameter in trainable),
        optimizer=round(optimizer_bytes * sum(parameter.numel() for parameter in trainable)),
        activations=live.peak + max((base[name].nbytes for name in bits), default=0),
        flops=live.flops,
        path=path,
    )


def _stored_bytes(parameter: torch.nn.Parameter, bits: float | None) -> int:
    return parameter.nbytes if bits is None else round(parameter.numel() * bits / 8)


def _step(
    model: torch.nn.Module, batch: Mapping[str, torch.Tensor], autocast: torch.dtype | None, *, through_all: bool
) -> tuple["_LiveBytes", BackwardPath]:
    # Bytes beside the parameters, their gradients and the batch; operations; and how far backward goes.
    mode = FakeTensorMode(allow_non_fake_inputs=True)  # such as the numbers of prefix tokens
    with mode:
        fakes = {id(tensor): _fake(tensor) for tensor in (*model.parameters(), *model.buffers())}
        inputs = {name: _fake(tensor) for name, tensor in batch.items()}
    twin = copy.deepcopy(model, dict(fakes)).train()  # what is known already is taken, not copied
    for parameter in twin.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_drop_gradient)
    if through_all:
        embeddings = cast(Any, twin).get_input_embeddings()
        embeddings.register_forward_hook(lambda module, args, output: output.requires_grad_(True))
    live = _LiveBytes(ignored=[*fakes.values(), *inputs.values()])
    try:
        with (
            watched_backward(twin) as path,
            mode,
            torch.autocast("cpu", autocast, enabled=autocast is not None),
            _FusedKernels(),
            live,
        ):
            loss = twin(**inputs).loss  # the other outputs are let go, as the Trainer does
            if loss is None:
                raise DataError(f"the batch has {', '.join(batch)} and so no loss: give the labels too.")
            loss.backward()
    except (RuntimeError, AssertionError) as error:
        raise FootprintNotEstimated(
            f"the training memory of {type(model).__name__} cannot be estimated from its shapes: {error}"
        ) from error
    return live, path


def _fake(tensor: torch.Tensor) -> torch.Tensor:
    # Kernels are chosen by device, and on the meta device attention would not be fused.
    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
    return torch.nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else fake


def _drop_gradient(parameter: torch.Tensor) -> None:
    # It is counted as a part of its own.
    parameter.grad = None


_ATEN = torch.ops.aten
_FLOPS: Mapping[Any, Any] = {
    **flop_registry,
    # The fused attention of a CPU takes the same arguments in the same order.
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[_ATEN._scaled_dot_product_flash_attention],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _ATEN._scaled_dot_product_flash_attention_backward
    ],
}


class _FusedKernels(TorchFunctionMode):
    """Takes from calls what would lead to other kernels than a GPU's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.nn.functional.scaled_dot_product_attention:
            kwargs["dropout_p"] = 0.0  # only on a CPU does dropout lead to the unfused path
        if func is getattr(torch, "_grouped_mm", None):
            rows, experts = args  # a row meets one expert, all are of one shape; for float32 torch has no shape rule
            return rows @ experts[0]
        return func(*args, **kwargs)


class _LiveBytes(TorchDispatchMode):
    """Sums the storages that are alive, but those of the ignored tensors, and the operations that made them."""

    def __init__(self, *, ignored: list[torch.Tensor]) -> None:
        super().__init__()
        self.peak = 0
        self.flops = 0
        self._now = 0
        self._known = {id(tensor.untyped_storage()) for tensor in ignored}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if count := _FLOPS.get(func.overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        if isinstance(result, torch.Tensor):
            self._add(result)
        else:
            tree_map_only(torch.Tensor, self._add, result)
        return result

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if id(storage) in self._known:
            return
        self._known.add(id(storage))
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._drop, id(storage), storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self._known.remove(key)
        self._now -= size
