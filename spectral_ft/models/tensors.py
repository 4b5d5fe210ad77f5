"""Read single tensors of a safetensors checkpoint, without torch and without loading the rest.

The format is a JSON header (name to dtype, shape, byte range) before the raw data, so one tensor is
one `pread`. bf16 stays the two bytes that it is; `bfloat16.widened` makes numbers of it.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from spectral_ft.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LARGEST_HEADER = 100 << 20  # bytes; the format's own bound
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
DTYPES = {**FLOATS, "U8": "|u1", "I8": "|i1"}
BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}
"""Of one number; those of less than a byte are not here."""


class Tensor(Protocol):
    """A tensor of a checkpoint that is not read yet."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As stored."""
        ...

    @property
    def is_float(self) -> bool:
        """Whether it holds plain numbers, and no packed ones."""
        ...

    @property
    def is_packed(self) -> bool:
        """Whether its numbers were packed and are read as what they stand for."""
        ...

    @property
    def dtype(self) -> str:
        """What its file calls the type of its numbers."""
        ...

    def read(self, part: int | None = None) -> np.ndarray:
        """Its entries, or those of one part along the first side; bf16 as its bits in uint16."""
        ...


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies in a safetensors file."""

    name: str
    file: Path
    dtype: str
    """safetensors' name of it: F32, BF16, ..."""
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""
    end: int

    @property
    def is_float(self) -> bool:
        """Whether it holds plain numbers, and no packed ones."""
        return self.dtype in FLOATS

    @property
    def is_packed(self) -> bool:
        """Never: packed numbers are read as they are."""
        return False

    def read(self, part: int | None = None) -> np.ndarray:
        """Read the tensor.

        Args:
            part: Index along the first side, to read only that part; None reads all.

        Returns:
            Array of its shape; bf16 as its bits in uint16.

        Raises:
            CheckpointError: If numpy has no such numbers, or the file ends too early.
        """
        if self.dtype not in DTYPES:
            raise CheckpointError(
                f"{self.name} in {self.file.name} has numbers of type {self.dtype}, which numpy does not know."
            )
        start, end, shape = self.start, self.end, self.shape
        if part is not None:
            length = (end - start) // shape[0]
            start, end, shape = start + part * length, start + (part + 1) * length, shape[1:]
        values = np.empty(end - start, np.uint8)
        filled = 0
        descriptor = os.open(self.file, os.O_RDONLY)
        try:
            while filled < len(values) and (count := os.preadv(descriptor, [values[filled:].data], start + filled)):
                filled += count
            # What was read is not needed again: leave the page cache to others.
            os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
        if filled < len(values):
            raise CheckpointError(
                f"{self.file} is truncated: {self.name} needs {len(values)} bytes, {filled} are there. "
                "Download it again."
            )
        return values.view(DTYPES[self.dtype]).reshape(shape)


@dataclass(frozen=True)
class Contents:
    """What a checkpoint folder holds, and what it should hold and does not."""

    tensors: dict[str, Tensor]
    faults: dict[str, str]
    """Tensor name to the sentence that says why it cannot be read."""


def is_safetensors(folder: Path) -> bool:
    """Whether a folder's weights are read from safetensors.

    Args:
        folder: Of a checkpoint.

    Returns:
        True if it holds any; they win over `.bin` files next to them.
    """
    return (folder / INDEX).exists() or any(folder.glob("*.safetensors"))


def safetensors_contents(folder: Path) -> Contents:
    """What the safetensors files of a folder hold; only their headers are read.

    Args:
        folder: With `model.safetensors`, or an index and its shards.

    Returns:
        The tensors. A missing shard, or a name that two files hold, is a fault of those tensors.

    Raises:
        CheckpointError: If the index or a header is unreadable, or none of the files is there.
    """
    promised = index_of(folder / INDEX)
    files = sorted({folder / name for name in promised.values()} or folder.glob("*.safetensors"))
    check_inside(folder, files)
    tensors: dict[str, Tensor] = {}
    faults: dict[str, str] = {}
    places: dict[str, Path] = {}
    for file in files:
        if not file.is_file():
            continue
        for tensor in _header(file, faults):
            if places.get(tensor.name, file) != file:
                faults[tensor.name] = (
                    f"{tensor.name} is in {places[tensor.name].name} and in {file.name}; remove one of them."
                )
            places[tensor.name] = file
            tensors[tensor.name] = tensor
    return reconcile(folder / INDEX, promised, tensors, faults)


def check_inside(folder: Path, files: Iterable[Path]) -> None:
    """Refuse weights that are pipes or devices, or lie outside of their folder.

    A snapshot of the hub's cache links to its blobs, which belong to it.

    Args:
        folder: Of the checkpoint.
        files: In it, as an index or a listing names them; those that are missing are left to others.

    Raises:
        CheckpointError: If one is a pipe or a device, or leads out of the folder.
    """
    home = folder.resolve()
    if home.parent.name == "snapshots":
        home = home.parent.parent
    for file in files:
        if not file.resolve().is_relative_to(home):
            raise CheckpointError(
                f"{file} leads out of its folder, to {file.resolve()}: the weights of a checkpoint lie in it. Copy the "
                "file into the folder if you trust it."
            )
        if file.exists() and not file.is_file() and not file.is_dir():
            raise CheckpointError(f"{file} is a pipe or a device: give a copy of the file.")


def index_of(path: Path) -> dict[str, str]:
    """Which file each tensor should be in.

    Args:
        path: Of the index; empty where it does not exist.

    Returns:
        Tensor name to file name.

    Raises:
        CheckpointError: If it is unreadable.
    """
    if not path.exists():
        return {}
    check_inside(path.parent, [path])
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}. Download it again.") from error
    if wrong := [name for name, file in found.items() if not isinstance(file, str)]:
        raise CheckpointError(f"{path} is damaged: it maps {wrong[0]} to no file name. Download it again.")
    return found


def reconcile(index: Path, promised: dict[str, str], tensors: dict[str, Tensor], faults: dict[str, str]) -> Contents:
    """Compare what an index promises with what was found.

    Args:
        index: Its path.
        promised: Tensor name to file name.
        tensors: What was found.
        faults: What was found wrong already.

    Returns:
        The sound tensors, and a sentence for each of the others.

    Raises:
        CheckpointError: If none of the promised files exists.
    """
    absent = {name for name in set(promised.values()) if not (index.parent / name).exists()}
    if promised and absent == set(promised.values()):
        raise CheckpointError(
            f"{index} names {min(absent)}, which is missing, as all its files are. Download it again."
        )
    faults = dict(faults)
    for name, file in promised.items():
        if file in absent:
            faults[name] = (
                f"{name} is missing: {index} says that it is in {file}, which is not there. Download it again."
            )
        elif name not in tensors:
            faults[name] = f"{name} is missing: {index} says that it is in {file}, which has no such tensor."
    return Contents({name: tensor for name, tensor in tensors.items() if name not in faults}, faults)


def _header(file: Path, faults: dict[str, str]) -> list[StoredTensor]:
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(size - 8, LARGEST_HEADER):
                raise CheckpointError(f"{file} is no safetensors file, or truncated: its header claims {length} bytes.")
            entries = json.loads(stream.read(length), object_pairs_hook=_Pairs)
        if not isinstance(entries, _Pairs):
            raise ValueError("it is no JSON object")
        found = [
            StoredTensor(
                name,
                file,
                dict(entry)["dtype"],
                tuple(dict(entry)["shape"]),
                *(8 + length + at for at in dict(entry)["data_offsets"]),
            )
            for name, entry in entries
            if name != "__metadata__"
        ]
        _check_places(found, start=8 + length)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file} is no safetensors file: its header is unreadable ({error!r}).") from error
    for name, count in Counter(tensor.name for tensor in found).items():
        if count > 1:
            faults[name] = f"{name} is {count} times in {file.name}; save the checkpoint again."
    return found


def _check_places(tensors: list[StoredTensor], *, start: int) -> None:
    # Each number belongs to one tensor, and each tensor has as many as its shape says.
    end, before = start, ""
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.end)):
        if not all(type(side) is int and side >= 0 for side in tensor.shape):
            raise ValueError(f"{tensor.name} has the shape {list(tensor.shape)}")
        bytes_there = tensor.end - tensor.start
        wanted = BYTES[tensor.dtype] * math.prod(tensor.shape) if tensor.dtype in BYTES else max(bytes_there, 0)
        if bytes_there != wanted:
            raise ValueError(f"{tensor.name} ({tensor.dtype}, {list(tensor.shape)}) has {bytes_there} bytes")
        if tensor.start < end and tensor.name != before:  # one that is there twice is told below
            raise ValueError(f"{tensor.name} and {before} overlap")
        end, before = tensor.end, tensor.name


class _Pairs(list[tuple[str, Any]]):
    """The pairs of a JSON object in their order; a dict would hide that a name comes twice."""
