"""The loss of a frozen language-model head without its logits.

A causal model's logits, (tokens x vocabulary), are the largest tensor of a step: kept for backward they are most of
the activations of a small model with a large vocabulary. Where the head W is not trained, only the gradient with
respect to its input h is needed, and that can be had in the forward pass, some tokens at a time:

    dL/dh = (softmax(W h) - onehot(label)) W

The norm before the head, where it is frozen too, is taken along: then nothing of it is kept either, and a step keeps
(tokens x hidden) for backward of all that lies above the last block. Tokens without a label (the prompt's) cost
nothing.

Whether a model's own forward pass is norm, head and cross entropy and nothing between (some scale or cap their logits)
is tried on a batch: its logits must be what the head gave, to the last bit, since small logits are hardly changed by a
cap that later ones will meet; what the head was given, the product; and the loss, the one that is computed here. Where
something lies between norm and head, the norm is left to the model, and otherwise the loss too.

Source: the rule of Liger-Kernel's fused linear cross entropy (arXiv:2410.10989, section 3.2), for a frozen head, in
plain torch.
"""

import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch._subclasses.fake_tensor import FakeTensor

from spectral_ft.training.backward import pretrained
from spectral_ft.training.head_trial import is_product, on_device, seen_by
from spectral_ft.training.held_out import evaluating
from spectral_ft.types import IGNORED

log = logging.getLogger(__name__)
ENTRIES = 2**23
"""Most logits at a time: 32 MiB in float32."""
PARTS, LEAST = 8, 128
"""Tokens are taken in so many parts, none of fewer tokens: what a part needs comes on top of all that is kept, and the
weights are read once a part."""
ROUNDING = 1e-4
"""Largest relative difference of two losses that mean the same; 16-bit logits are rounded differently (1e-2)."""
ROUNDING_16_BIT = 1e-2


class HeadIsNotLastError(Exception):
    """A model without weights does something between head and loss, so that it would keep its own loss."""


@contextmanager
def fused_head_loss(model: torch.nn.Module, batch: Mapping[str, torch.Tensor] | None = None) -> Iterator[bool]:
    """Let a causal model in training mode compute its loss without keeping logits.

    Inside the context its outputs have hidden states in the place of logits; in evaluation mode all is as ever.

    Args:
        model: Adapted; a model whose head is trained, adapted, quantized, has a bias, or is wider than its vocabulary
            behind a norm that must be left to it, stays as it is.
        batch: To try it on; None tries nothing, for models without weights: of these a forward pass tells.

    Yields:
        Whether it does.

    Raises:
        HeadIsNotLastError: In the forward pass of a model without weights (fake tensors).
    """
    core: Any = pretrained(model)
    head = core.get_output_embeddings() if hasattr(core, "get_output_embeddings") else None
    if not _is_fusable(head, core):
        yield False
        return
    norms = _taken_along(head, core)
    plain = None if batch is None else seen_by(model, batch, head, next(filter(None, norms), None))
    for norm in norms:
        if plain and not is_product(plain, head, norm):
            continue
        with _exchanged(core, head, norm) as passing:
            if batch is None or (plain and _agree(plain.loss, _loss(model, batch, passing), core.dtype)):
                yield True
                return
    log.info("%s does more to its logits than the head: it keeps its own loss", type(core).__name__)
    yield False


def _is_fusable(head: Any, core: Any) -> TypeGuard[torch.nn.Linear]:
    if type(head) is not torch.nn.Linear or head.bias is not None or head.weight.requires_grad:
        return False
    return not core.config.is_encoder_decoder  # their losses are no attribute that could be exchanged


def _taken_along(head: torch.nn.Linear, core: Any) -> list[torch.nn.Module | None]:
    # What to try: the frozen norm before the head, if there is one, then the head alone.
    vectors = {
        module: list(module.parameters())
        for module in core.get_decoder().children()
        if {parameter.shape for parameter in module.parameters()} == {(head.in_features,)}
    }
    norms: list[torch.nn.Module | None] = [
        norm for norm, parameters in list(vectors.items())[-1:] if not any(p.requires_grad for p in parameters)
    ]
    # the head alone must gain something: its gradient is as wide as it is, and the logits as its vocabulary
    return norms + [None] * (head.out_features > head.in_features)


@contextmanager
def _exchanged(core: Any, head: torch.nn.Linear, norm: torch.nn.Module | None) -> Iterator[list[torch.nn.Module]]:
    # Norm and head hand on what they are given, and the loss does their work.
    passing: list[Any] = [head] if norm is None else [norm, head]
    kinds: list[Any] = [type(module) for module in passing]
    own = core.loss_function
    for module, kind in zip(passing, kinds, strict=True):
        module.__class__ = _passing(kind)
    core.loss_function = _HeadLoss(head, norm, own)
    try:
        yield passing
    finally:
        core.loss_function = own
        for module, kind in zip(passing, kinds, strict=True):
            module.__class__ = kind


def _agree(plain: float, fused: float, dtype: torch.dtype) -> bool:
    return abs(fused - plain) <= (ROUNDING if dtype == torch.float32 else ROUNDING_16_BIT) * abs(plain)


@torch.no_grad()
def _loss(model: torch.nn.Module, batch: Mapping[str, torch.Tensor], passing: Sequence[torch.nn.Module]) -> float:
    with evaluating(model):
        for module in passing:
            module.training = True
        try:
            return float(model(**on_device(model, batch)).loss)
        finally:
            for module in passing:
                module.training = False


@functools.cache
def _passing(kind: Any) -> Any:
    # A class like another, whose modules hand on what they are given while they are in training mode.
    def forward(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        if isinstance(hidden, FakeTensor):
            self.handed_on = hidden
        return hidden if self.training else kind.forward(self, hidden)

    return type(f"Passing{kind.__name__}", (kind,), {"forward": forward, "passed": kind.forward})


class _HeadLoss:
    """Cross entropy of what a frozen head makes of hidden states; a class, so that a copied model has a copy."""

    def __init__(self, head: torch.nn.Linear, norm: torch.nn.Module | None, own: Callable[..., torch.Tensor]) -> None:
        self.head = head
        self.norm = norm
        self.own = own

    def __call__(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        vocab_size: int | None = None,  # some models give it by its place
        num_items_in_batch: torch.Tensor | int | None = None,
        shift_labels: torch.Tensor | None = None,
        **options: Any,
    ) -> torch.Tensor:
        if not self.head.training:
            told = {"num_items_in_batch": num_items_in_batch, "shift_labels": shift_labels}
            return self.own(logits=logits, labels=labels, vocab_size=vocab_size, **told, **options)
        if shift_labels is None:
            shift_labels = torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[..., 1:]
        if isinstance(logits, FakeTensor):
            made: Any = self.head.handed_on
            if logits is not made and logits.dtype == made.dtype:  # some widen their logits
                raise HeadIsNotLastError(f"the logits of shape {tuple(logits.shape)} are not what the head has made")
        targets, hidden = shift_labels.reshape(-1).to(logits.device), logits.reshape(-1, logits.shape[-1])
        if not isinstance(targets, FakeTensor):  # which has no values: all may be learnt
            learnt = targets.ne(IGNORED).nonzero().squeeze(1)
            if len(learnt) < len(targets):
                targets, hidden = targets.index_select(0, learnt), hidden.index_select(0, learnt)
        total: torch.Tensor = _Summed.apply(hidden, self.head.weight, self.norm, targets)
        count = len(targets) if num_items_in_batch is None else num_items_in_batch
        return total / (count.to(total.device) if isinstance(count, torch.Tensor) else count)


class _Summed(torch.autograd.Function):
    """Sum of cross entropies, and its gradient with respect to the hidden states, in one pass."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, norm: Any, targets: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        some = max(1, min(ENTRIES // weight.shape[0], max(LEAST, math.ceil(len(targets) / PARTS))))
        for start in range(0, len(targets), some):
            part, wanted = hidden[start : start + some], targets[start : start + some, None]
            with torch.set_grad_enabled(gradient is not None and norm is not None):
                given = part.detach().requires_grad_(torch.is_grad_enabled())
                normed = given if norm is None else norm.passed(given)
            logits = (normed.detach() @ weight.T).float()
            largest = logits.amax(1, keepdim=True)
            of_label = logits.gather(1, wanted) - largest
            softmax = logits.sub_(largest).exp_()  # all in place: logits are the largest tensor of a step
            sums = softmax.sum(1, keepdim=True)
            total += (sums.log() - of_label).sum()
            if gradient is None:
                continue
            softmax.div_(sums).scatter_add_(1, wanted, torch.full_like(sums, -1))
            place = gradient[start : start + some]
            if norm is not None:
                place.copy_(torch.autograd.grad(normed, given, (softmax.to(weight.dtype) @ weight).to(normed.dtype))[0])
            elif place.dtype == weight.dtype:
                torch.mm(softmax.to(weight.dtype), weight, out=place)
            else:  # mixed precision
                place.copy_(softmax.to(weight.dtype) @ weight)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0].to(gradient.dtype), None, None, None
