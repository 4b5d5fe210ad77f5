"""An optimizer follows parameters that were replaced, frozen or added in mid-training.

Its parameter groups stay, in number and order, so that learning-rate schedulers made for it go on
working: parameters move between groups, groups are neither made nor removed. Within a group the
parameters stand in the model's order, as in an optimizer that is made anew for the same model: what
`state_dict` saves fits there.

The maker of the groups writes each one's learning-rate multiplier into it, under
`LR_MULTIPLIER`; a group without that key has multiplier 1.

Known gaps: a padded entry has zero moments and the old step count, so Adam does not correct their bias: its
first dozen steps grow to (1 - 0.9^t) / sqrt(1 - 0.999^t), up to 6.6 learning rates.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Parameter
from torch.nn.functional import pad
from torch.optim import Optimizer

from spectral_ft.errors import PlanError

LR_MULTIPLIER = "lr_multiplier"
"""Key of a parameter group: the multiple of the learning rate that its `lr` is, as in a plan."""


@dataclass(frozen=True)
class Replacement:
    """What happened to one parameter."""

    name: str
    """Of its matrix, for messages."""
    old: Parameter | None
    """None: it is trained from now on."""
    new: Parameter | None
    """None: it is trained no more. May be `old` itself."""
    carries_state: bool = False
    """Whether the state goes over, padded with zeros to the new shape."""
    lr_multiplier: float | None = None
    """Of the group it belongs in; None: the old one's, or for what is new that of multiplier 1."""


def fitting_group(optimizer: Optimizer, lr_multiplier: float, *, name: str) -> dict[str, Any]:
    """The parameter group for a learning-rate multiplier.

    Args:
        optimizer: With `LR_MULTIPLIER` in the groups that have one other than 1.
        lr_multiplier: Of the plan.
        name: Of the matrix, for the message.

    Returns:
        The first group with that multiplier.

    Raises:
        PlanError: If there is none.
    """
    for group in optimizer.param_groups:
        if group.get(LR_MULTIPLIER, 1.0) == lr_multiplier:
            return group
    known = sorted({group.get(LR_MULTIPLIER, 1.0) for group in optimizer.param_groups})
    raise PlanError(
        f"{name} asks for lr_multiplier={lr_multiplier:g}, the optimizer has groups for "
        f"{', '.join(f'{value:g}' for value in known)} only: make a group for each multiplier that a later plan may "
        "ask for, empty where need be, before the learning-rate scheduler is made."
    )


def holding_group(optimizer: Optimizer, parameter: Parameter, *, name: str) -> dict[str, Any]:
    """The parameter group that a parameter is in.

    Args:
        optimizer: Of the model.
        parameter: Of the model.
        name: Of the matrix, for the message.

    Returns:
        The group.

    Raises:
        PlanError: If no group has it.
    """
    for group in optimizer.param_groups:
        if any(member is parameter for member in group["params"]):
            return group
    raise PlanError(
        f"an adapter of {name} is trainable but in no parameter group of the optimizer: "
        "give the optimizer that trains this model."
    )


def padded_state(optimizer: Optimizer, parameter: Parameter, shape: Sequence[int], *, name: str) -> dict[str, Any]:
    """The state of a parameter for one that has grown.

    Args:
        optimizer: Whose state of a parameter is made of float tensors of its shape (first and second
            moments) and of scalars (steps).
        parameter: (rows, columns).
        shape: Rows and columns, none fewer than the parameter's.
        name: Of the matrix, for the message.

    Returns:
        Scalars as they are, tensors with zeros below and to the right; the tensors of a parameter of
        the same shape as they are.

    Raises:
        PlanError: If a part of the state has another form, such as the blocks of an 8-bit optimizer.
    """
    state = dict(optimizer.state.get(parameter, {}))
    below, right = (wanted - present for wanted, present in zip(shape, parameter.shape, strict=True))
    if not below and not right:
        return state
    for key, value in state.items():
        if not isinstance(value, torch.Tensor) or value.ndim == 0:
            continue
        if value.shape != parameter.shape or not value.is_floating_point():
            raise PlanError(
                f"the optimizer's {key} of {name} is {tuple(value.shape)} of {value.dtype} for a parameter of "
                f"{tuple(parameter.shape)}, so it cannot be padded when the rank grows: take an optimizer whose state "
                "is of the parameters' shapes, such as training.optimizer=adamw_torch."
            )
        state[key] = pad(value, (0, right, 0, below))
    return state


def follow(optimizer: Optimizer, replacements: Iterable[Replacement], *, order: Iterable[Parameter]) -> None:
    """Train what a model has now.

    Args:
        optimizer: Changed in place.
        replacements: Of the model's parameters.
        order: All parameters of the model.
    """
    for replacement in replacements:
        old, new, state = replacement.old, replacement.new, {}
        group = None if old is None else holding_group(optimizer, old, name=replacement.name)
        if group is not None and old is not None:
            if new is not None and replacement.carries_state:
                state = padded_state(optimizer, old, new.shape, name=replacement.name)
            group["params"] = [member for member in group["params"] if member is not old]
            optimizer.state.pop(old, None)
        if new is None:
            continue
        if group is None or replacement.lr_multiplier is not None:
            group = fitting_group(optimizer, replacement.lr_multiplier or 1.0, name=replacement.name)
        group["params"] = [*group["params"], new]
        if state:
            optimizer.state[new] = state
    position = {parameter: number for number, parameter in enumerate(order)}
    for group in optimizer.param_groups:
        group["params"].sort(key=lambda member: position.get(member, len(position)))
