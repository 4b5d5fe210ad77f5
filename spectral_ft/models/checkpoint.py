"""A checkpoint folder: its configuration, its matrices, its weights one at a time."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from spectral_ft.errors import CheckpointError
from spectral_ft.fingerprint import file_fingerprint, path_fingerprint, text_fingerprint
from spectral_ft.models import torch_files
from spectral_ft.models.block_matrices import BlockMatrices
from spectral_ft.models.kinds import Kind
from spectral_ft.models.layout import layout
from spectral_ft.models.places import Layout, LayoutRequest
from spectral_ft.models.tensors import Contents, StoredTensor, is_safetensors, safetensors_contents
from spectral_ft.types import MatrixShape

LARGEST = {
    r"(^|_)layers?$|(^|_)blocks?$|^n_layers?$": 10_000,
    r"experts(_per_tok)?$": 100_000,
    r"vocab_size|(^|_)positions?(_embeddings)?$": 1 << 30,
    r"(hidden|intermediate|embedding|ffn|state)_size$|(^|_)(dim|heads|inner|embd|model|ff)$": 1 << 24,
}
"""Names of numbers in a `config.json` to the largest that a model is built for; above, the description alone would fill
the memory."""
PARTS = ("text_config", "quantization_config")
"""Of a `config.json`, which are objects if they are there."""


@dataclass(frozen=True)
class Checkpoint:
    """A local folder with `config.json` and weights."""

    folder: Path
    dequantize: bool = False
    """Analyse packed weights as what they stand for."""
    kind: Kind = "causal_lm"
    """What the model shall do, which decides what its modules are called."""
    trust_remote_code: bool = False
    """Run code that comes with the checkpoint, to see which modules its model has."""

    def __post_init__(self) -> None:
        """Look for what a checkpoint must have.

        Raises:
            CheckpointError: If the folder or its `config.json` is missing, or an adapter lies there too.
        """
        if not self.folder.is_dir():
            raise CheckpointError(f"model.path={self.folder} does not exist or is no folder.")
        for path in self.folder.iterdir():
            if path.exists() and not path.is_file() and not path.is_dir():  # whoever opens it waits for ever
                raise CheckpointError(f"{path} is a pipe or a device: a checkpoint is made of plain files.")
        if not (self.folder / "config.json").is_file():
            raise CheckpointError(
                f"model.path={self.folder} holds no checkpoint: config.json is missing. It must be a folder as "
                "save_pretrained writes it (config.json, *.safetensors, tokenizer files)."
            )
        _ = self.config  # looked at before anything is built from it
        if (self.folder / "adapter_config.json").is_file():
            raise CheckpointError(
                f"model.path={self.folder} holds a model and an adapter (adapter_config.json), which transformers "
                "would put on the model by itself. Move adapter_config.json and adapter_model.* to another folder; "
                "`evaluate adapter=FOLDER` scores the model with it."
            )

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of `config.json`.

        Raises:
            CheckpointError: If it is damaged, or describes what cannot be a model.
        """
        path = self.folder / "config.json"
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            faults = list(_faults(read)) if isinstance(read, dict) else []
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} is damaged: {error}.") from error
        if not isinstance(read, dict):
            raise CheckpointError(f"{path} holds a {type(read).__name__}, and must hold an object: download it again.")
        if faults:
            raise CheckpointError(f"{path} describes no model: {faults[0]}. Download it again.")
        return read

    @property
    def model_type(self) -> str:
        """The architecture's name in `config.json`."""
        return str(self.config.get("model_type", "unknown"))

    @property
    def context_length(self) -> int | None:
        """The most tokens the model takes; None where `config.json` does not say."""
        fields = {**self.config, **(self.config.get("text_config") or {})}
        return next((int(fields[key]) for key in ("max_position_embeddings", "n_positions") if fields.get(key)), None)

    @property
    def has_weights(self) -> bool:
        """Whether any file of weights is there."""
        return any(any(self.folder.glob(pattern)) for pattern in ("*.safetensors", "*.safetensors.index.json", "*.bin"))

    @cached_property
    def contents(self) -> Contents:
        """Its tensors, from safetensors or, where there are none, from torch's `.bin` files.

        Raises:
            CheckpointError: If it has neither.
        """
        if is_safetensors(self.folder):
            return safetensors_contents(self.folder)
        if any((self.folder / name).exists() for name in (torch_files.SINGLE, torch_files.INDEX)):
            return torch_files.torch_contents(self.folder)
        others = sorted(path.name for path in self.folder.iterdir())[:5]
        raise CheckpointError(
            f"{self.folder} holds no .safetensors file and no {torch_files.SINGLE}; it holds {', '.join(others)}."
        )

    @cached_property
    def block_matrices(self) -> BlockMatrices:
        """The matrices of its blocks."""
        return BlockMatrices(str(self.folder), self.model_type, self.contents, self.dequantize, self._layout)

    def _layout(self, shapes: dict[str, tuple[int, ...] | None], codes: list[str], packed: list[str]) -> Layout:
        return layout(LayoutRequest(str(self.folder), self.kind, self.trust_remote_code, shapes, codes, packed))

    @property
    def matrices(self) -> tuple[MatrixShape, ...]:
        """The shapes of its block matrices."""
        return self.block_matrices.matrices

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the weight files."""
        files = {tensor.file.suffix for tensor in self.contents.tensors.values() if isinstance(tensor, StoredTensor)}
        return path_fingerprint(self.folder, suffixes=tuple(files) or (".bin",)) + (
            "-dequantized" if self.dequantize else ""
        )

    @property
    def settings_fingerprint(self) -> str:
        """Digest of what lies beside the weights and says how the model computes, and how it generates by default."""
        files = sorted(
            path for name in ("config.json", "generation_config.json", "*.py") for path in self.folder.glob(name)
        )
        return text_fingerprint("\n".join(f"{path.name} {file_fingerprint(path)}" for path in files))

    def check_whole(self) -> None:
        """Check that every tensor is there, without reading one.

        Raises:
            CheckpointError: If a tensor is missing, there twice, or beyond the end of its file.
        """
        for fault in self.contents.faults.values():
            raise CheckpointError(fault)
        for tensor in self.contents.tensors.values():
            if isinstance(tensor, StoredTensor) and tensor.end > (size := tensor.file.stat().st_size):
                raise CheckpointError(
                    f"{tensor.file} is truncated: {tensor.name} ends at byte {tensor.end}, {size} are there. "
                    "Download it again."
                )


def _faults(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    # What no library would survive: wrong types of what is read here, and numbers for which nothing has memory.
    if not isinstance(config.get("model_type", ""), str | None):
        yield f"{prefix}model_type is {config['model_type']!r}, not a text"
    for part in PARTS:
        if not isinstance(config.get(part), Mapping | None):
            yield f"{prefix}{part} is {config[part]!r}, not an object"
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _faults(value, f"{prefix}{key}.")
            continue
        most = next((most for pattern, most in LARGEST.items() if re.search(pattern, key)), None)
        if most is None or isinstance(value, bool | None):
            continue
        if isinstance(value, int | float) and not 0 <= value <= most:
            yield f"{prefix}{key} is {value:g}, and at most {most} is taken"
        elif isinstance(value, str) and key in {
            "num_hidden_layers",
            "hidden_size",
            "vocab_size",
            "max_position_embeddings",
        }:
            yield f"{prefix}{key} is {value!r}, not a number"
