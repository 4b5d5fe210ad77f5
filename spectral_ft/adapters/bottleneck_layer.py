"""A frozen linear module with a bottleneck adapter.

    series:    h = W (x + U tanh(D x))      D: (size, d_in), U: (d_in, size)
    parallel:  h = W x + U tanh(D x)        D: (size, d_in), U: (d_out, size)

The frozen module stays whole below `base_layer` and is only called, so it may be packed, transposed or have
a bias. The adapter is float32 whatever the base is in.

Source: LLM-Adapters, arXiv:2304.01933, section 2.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

Placement = Literal["series", "parallel"]
"""On the module's input, or beside the module."""

Init = Literal["zero", "bert"]
"""Up is zero and down Kaiming-uniform, as LoRA's factors; or both N(0, 0.02), as published."""


class BottleneckLinear(nn.Module):
    """A frozen linear module with a bottleneck adapter, whose weights are still to be filled."""

    def __init__(self, base_layer: Any, size: int, *, placement: Placement, init: Init) -> None:
        super().__init__()
        d_in, d_out = _sides(base_layer)
        width, device = width_of(placement, d_in=d_in, d_out=d_out), base_layer.weight.device
        empty: Callable[..., nn.Linear] = nn.utils.skip_init  # to be filled from a seed or from a file
        self.base_layer = base_layer
        self.bottleneck_down = empty(nn.Linear, d_in, size, bias=False, device=device, dtype=torch.float32)
        self.bottleneck_up = empty(nn.Linear, size, width, bias=False, device=device, dtype=torch.float32)
        self.placement, self.init = placement, init

    def start(self) -> None:
        """Fill the adapter as `init` says, from torch's seed."""
        _INITS[self.init](self.bottleneck_down.weight, self.bottleneck_up.weight)

    @property
    def weight(self) -> torch.Tensor:
        """The frozen module's: T5 and Falcon ask their projections for its dtype."""
        return cast(torch.Tensor, self.base_layer.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The adapted map.

        Args:
            x: Shape (..., d_in).

        Returns:
            Shape (..., d_out), in the dtype of `x`.
        """
        return cast(torch.Tensor, _FORWARDS[self.placement](self, x)).to(x.dtype)

    def update(self, x: torch.Tensor) -> torch.Tensor:
        """What the adapter adds: `U tanh(D x)`.

        Args:
            x: Shape (..., d_in).

        Returns:
            Shape (..., d_in) in series, (..., d_out) in parallel; in the adapter's dtype.
        """
        down = self.bottleneck_down(x.to(self.bottleneck_down.weight.dtype))
        return cast(torch.Tensor, self.bottleneck_up(torch.tanh(down)))


def width_of(placement: Placement, *, d_in: int, d_out: int) -> int:
    """The width of what an adapter adds to: the module's input, or its output.

    Args:
        placement: Of the adapter.
        d_in: Of the module.
        d_out: Of the module.

    Returns:
        One of the two.
    """
    return {"series": d_in, "parallel": d_out}[placement]


def _series(site: BottleneckLinear, x: torch.Tensor) -> Any:
    return site.base_layer((x + site.update(x)).to(x.dtype))


def _parallel(site: BottleneckLinear, x: torch.Tensor) -> Any:
    return site.base_layer(x) + site.update(x)


def _start_at_zero(down: torch.Tensor, up: torch.Tensor) -> None:
    nn.init.kaiming_uniform_(down, a=math.sqrt(5))
    nn.init.zeros_(up)


def _start_as_published(down: torch.Tensor, up: torch.Tensor) -> None:
    nn.init.normal_(down, std=0.02)
    nn.init.normal_(up, std=0.02)


_FORWARDS: dict[Placement, Callable[[BottleneckLinear, torch.Tensor], Any]] = {"series": _series, "parallel": _parallel}
_INITS: dict[Init, Callable[[torch.Tensor, torch.Tensor], None]] = {"zero": _start_at_zero, "bert": _start_as_published}


def _sides(module: Any) -> tuple[int, int]:
    # (d_in, d_out) as the module declares them: a packed weight's own shape says nothing.
    return (module.nx, module.nf) if isinstance(module, Conv1D) else (module.in_features, module.out_features)
