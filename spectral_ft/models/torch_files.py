"""Read single tensors of torch `.bin` files: mapped into memory, weights only, no other pickle.

Torch is imported when such a file is there, and only then.
"""

import pickle
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spectral_ft.errors import CheckpointError
from spectral_ft.models.tensors import Contents, Tensor, check_inside, index_of, reconcile

if TYPE_CHECKING:
    import torch

INDEX = "pytorch_model.bin.index.json"
SINGLE = "pytorch_model.bin"


@dataclass(frozen=True)
class TorchTensor:
    """A torch tensor, on whatever device, whose entries numpy can have."""

    tensor: "torch.Tensor"

    @property
    def shape(self) -> tuple[int, ...]:
        """As stored."""
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> str:
        """Torch's name of it."""
        return str(self.tensor.dtype)

    @property
    def is_float(self) -> bool:
        """Whether it holds plain numbers, and no packed ones."""
        return self.tensor.is_floating_point() and self.tensor.element_size() >= 2

    @property
    def is_packed(self) -> bool:
        """Never: packed numbers are read as they are."""
        return False

    def read(self, part: int | None = None) -> np.ndarray:
        """Its entries.

        Args:
            part: Index along the first side, to read only that part; None reads all.

        Returns:
            Array of its shape; bf16 as its bits in uint16.
        """
        import torch

        on_host = (self.tensor if part is None else self.tensor[part]).detach().cpu()
        if on_host.dtype == torch.bfloat16:
            return on_host.contiguous().view(torch.uint16).numpy()
        return np.asarray(on_host.numpy())


def torch_contents(folder: Path) -> Contents:
    """What the `.bin` files of a folder hold; entries stay on disk until they are read.

    Args:
        folder: With `pytorch_model.bin`, or an index and its shards.

    Returns:
        The tensors; of several that share their entries, the first by name. A missing shard is a fault
        of its tensors.

    Raises:
        CheckpointError: If a file is damaged or holds more than weights, or none is there.
    """
    promised = index_of(folder / INDEX)
    names = sorted(set(promised.values())) or [SINGLE]
    check_inside(folder, [folder / name for name in names])
    tensors: dict[str, Tensor] = {}
    faults: dict[str, str] = {}
    seen: set[tuple[object, ...]] = set()
    for file in (folder / name for name in names):
        if not file.exists():
            continue
        for name, tensor in sorted(_load(file).items()):
            if name in tensors:
                faults[name] = f"{name} is in {file.name} and in another file of {folder}; remove one of them."
            identity = (file, tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
            if tensor.numel() == 0 or identity not in seen:
                tensors[name] = TorchTensor(tensor)
            else:
                promised.pop(name, None)  # tied to another, which is read
            seen.add(identity)
    return reconcile(folder / INDEX, promised, tensors, faults)


def load_state_dict(file: Path) -> dict[str, Tensor]:
    """What one `.bin` file holds.

    Args:
        file: Of a state dict.

    Returns:
        Name to tensor.

    Raises:
        CheckpointError: If it is damaged or holds more than weights.
    """
    return {name: TorchTensor(tensor) for name, tensor in _load(file).items()}


def _load(file: Path) -> "dict[str, torch.Tensor]":
    import torch

    try:
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            loaded = torch.load(file, map_location="cpu", weights_only=True)  # the format before torch 1.6
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} holds more than weights, and is not opened, since a pickle can run any code: "
            f"{str(error).splitlines()[0]}. Convert it to safetensors where you trust it."
        ) from error
    except (RuntimeError, OSError, EOFError, LookupError, ValueError, AssertionError, struct.error) as error:
        why = (str(error).splitlines() or [f"it ends too early ({type(error).__name__})"])[0]
        raise CheckpointError(f"{file} is damaged: {why}. Download it again.") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise CheckpointError(f"{file} is no state dict: it must map names to tensors.")
    return loaded
