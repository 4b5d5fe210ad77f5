"""What stored weights must be before they are put on a base: made of numbers."""

from collections.abc import Mapping
from pathlib import Path

import torch

from spectral_ft.errors import CheckpointError


def check_finite(stored: Mapping[str, torch.Tensor], where: Path) -> None:
    """Refuse what a diverged training left.

    Args:
        stored: Name to tensor, as it was read.
        where: From which file or folder, for the message.

    Raises:
        CheckpointError: If an entry is NaN or infinite.
    """
    for name, tensor in stored.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{where}: {name} holds NaN or infinite entries: its training diverged.")
