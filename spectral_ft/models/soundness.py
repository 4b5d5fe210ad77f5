"""What a model must be after loading: whole, of the right shapes, and made of numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from spectral_ft.errors import CheckpointError


def fresh_parameters(
    model: PreTrainedModel, told: Mapping[str, Any], *, heads: tuple[str, ...], folder: Path
) -> list[str]:
    """The parameters of a head that the files lack.

    Args:
        model: As it was loaded.
        told: What `from_pretrained` said of the loading: `missing_keys` and `mismatched_keys`.
        heads: Modules that may be missing.
        folder: Of the checkpoint, for errors.

    Returns:
        Their names; none where the files have everything.

    Raises:
        CheckpointError: If anything else is missing, or has another shape in the files.
    """
    inside = tuple(f"{head}." for head in heads)
    for name, stored, wanted in sorted(told["mismatched_keys"]):
        way_out = ": give as many model.labels as the files have" if name.startswith(inside) else ""
        raise CheckpointError(
            f"{folder}: {name} has shape {tuple(stored)} in the files and {tuple(wanted)} in the model{way_out}."
        )
    parameters = {name for name, _ in model.named_parameters()}
    missing = sorted(parameters.intersection(told["missing_keys"]))
    lacking = [name for name in missing if not name.startswith(inside)]
    if lacking:
        raise CheckpointError(
            f"{folder} lacks {len(lacking)} of the {len(parameters)} tensors of a {type(model).__name__}, such as "
            f"{lacking[0]}: they would be random. Take a checkpoint that has them, or another model.kind."
        )
    return missing


def check_finite(model: PreTrainedModel) -> None:
    """Refuse weights that are no numbers.

    Args:
        model: As it was loaded.

    Raises:
        CheckpointError: If one is NaN or infinite.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not torch.isfinite(parameter).all():
            bad = int((~torch.isfinite(parameter)).sum())
            raise CheckpointError(
                f"{name} holds {bad} NaN or infinite entries of {parameter.numel()}. "
                "The checkpoint is damaged, or its training diverged."
            )
