"""Read single tensors of a safetensors checkpoint, without torch and without loading the rest.

The format is a JSON header (name to dtype, shape, byte range) before the raw data, so one tensor is
one `pread`. bf16 is widened to float32 by shifting its bits.

Known gaps: torch `.bin` files and quantized tensors are refused.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spectral_ft.errors import CheckpointError

INDEX = "model.safetensors.index.json"
LARGEST_HEADER = 100 << 20  # bytes; the format's own bound
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies."""

    name: str
    file: Path
    dtype: str
    """safetensors' name of it: F32, BF16, ..."""
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""
    end: int

    def read(self) -> np.ndarray:
        """Read the tensor.

        Returns:
            Float array of its shape; bf16 comes as float32.

        Raises:
            CheckpointError: If the dtype is no plain float, or the file ends too early.
        """
        if self.dtype not in DTYPES:
            raise CheckpointError(
                f"{self.name} in {self.file.name} has dtype {self.dtype}: only unquantized weights "
                f"({', '.join(DTYPES)}) are analysed. Point model.path at the unquantized checkpoint."
            )
        descriptor = os.open(self.file, os.O_RDONLY)
        try:
            raw = os.pread(descriptor, self.end - self.start, self.start)
            while 0 < len(raw) < self.end - self.start and (
                more := os.pread(descriptor, self.end - self.start - len(raw), self.start + len(raw))
            ):
                raw += more
            # What was read is not needed again: leave the page cache to others.
            os.posix_fadvise(descriptor, self.start, self.end - self.start, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
        if len(raw) != self.end - self.start:
            raise CheckpointError(
                f"{self.file} is truncated: {self.name} needs {self.end - self.start} bytes, {len(raw)} are there."
            )
        values = np.frombuffer(raw, DTYPES[self.dtype])
        if self.dtype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.reshape(self.shape)


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """What a checkpoint folder holds.

    Args:
        folder: With `model.safetensors`, or an index and its shards.

    Returns:
        Tensor name to its place.

    Raises:
        CheckpointError: If there is no safetensors file, one of the index is missing, a header is
            unreadable, or two files hold a tensor of one name.
    """
    index = folder / INDEX
    if index.exists():
        try:
            files = sorted({folder / name for name in json.loads(index.read_text())["weight_map"].values()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index} is damaged: {error!r}. Download it again.") from error
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        others = sorted(path.name for path in folder.glob("*.bin"))
        hint = f" It holds {', '.join(others[:3])}; convert it to safetensors first." if others else ""
        raise CheckpointError(f"{folder} holds no .safetensors file.{hint}")
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for tensor in _header(file):
            if tensor.name in tensors:
                raise CheckpointError(
                    f"{tensor.name} is in {tensors[tensor.name].file.name} and in {file.name}; remove one of them."
                )
            tensors[tensor.name] = tensor
    return tensors


def _header(file: Path) -> list[StoredTensor]:
    if not file.exists():
        raise CheckpointError(f"{file.parent / INDEX} names {file.name}, which is missing. Download it again.")
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(size, LARGEST_HEADER):
                raise CheckpointError(f"{file} is no safetensors file, or truncated: its header claims {length} bytes.")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        found = [
            StoredTensor(
                name, file, entry["dtype"], tuple(entry["shape"]), *(8 + length + at for at in entry["data_offsets"])
            )
            for name, entry in header.items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} is no safetensors file: its header is unreadable ({error!r}).") from error
    last = max((tensor.end for tensor in found), default=0)
    if last > size:
        raise CheckpointError(f"{file} is truncated: {last} bytes are promised, {size} are there. Download it again.")
    return found
