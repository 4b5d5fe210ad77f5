"""A checkpoint folder: its configuration, its matrices, its weights one at a time."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from spectral_ft.errors import CheckpointError
from spectral_ft.fingerprint import file_fingerprint, path_fingerprint, text_fingerprint
from spectral_ft.models import torch_files
from spectral_ft.models.block_matrices import BlockMatrices
from spectral_ft.models.tensors import Contents, StoredTensor, is_safetensors, safetensors_contents
from spectral_ft.types import MatrixShape


@dataclass(frozen=True)
class Checkpoint:
    """A local folder with `config.json` and weights."""

    folder: Path
    dequantize: bool = False
    """Analyse packed weights as what they stand for."""

    def __post_init__(self) -> None:
        """Look for what a checkpoint must have.

        Raises:
            CheckpointError: If the folder or its `config.json` is missing.
        """
        if not self.folder.is_dir():
            raise CheckpointError(f"model.path={self.folder} does not exist or is no folder.")
        if not (self.folder / "config.json").is_file():
            raise CheckpointError(
                f"model.path={self.folder} holds no checkpoint: config.json is missing. It must be a folder as "
                "save_pretrained writes it (config.json, *.safetensors, tokenizer files)."
            )

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of `config.json`.

        Raises:
            CheckpointError: If it is damaged.
        """
        path = self.folder / "config.json"
        try:
            return dict(json.loads(path.read_text()))
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged: {error}.") from error

    @property
    def model_type(self) -> str:
        """The architecture's name in `config.json`."""
        return str(self.config.get("model_type", "unknown"))

    @property
    def context_length(self) -> int | None:
        """The most tokens the model takes; None where `config.json` does not say."""
        fields = {**self.config, **self.config.get("text_config", {})}
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
        return BlockMatrices(str(self.folder), self.model_type, self.contents, self.dequantize)

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
