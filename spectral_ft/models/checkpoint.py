"""A checkpoint folder: its configuration, its matrices, its weights one at a time."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from spectral_ft.errors import CheckpointError
from spectral_ft.fingerprint import path_fingerprint
from spectral_ft.models.architectures import block_matrices
from spectral_ft.models.tensors import StoredTensor, stored_tensors
from spectral_ft.types import MatrixShape


@dataclass(frozen=True)
class Checkpoint:
    """A local folder with `config.json` and safetensors."""

    folder: Path

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

    @cached_property
    def tensors(self) -> dict[str, StoredTensor]:
        """Tensor name to its place."""
        return stored_tensors(self.folder)

    @cached_property
    def matrices(self) -> tuple[MatrixShape, ...]:
        """The block matrices."""
        return block_matrices(self.model_type, {name: tensor.shape for name, tensor in self.tensors.items()})

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the weight files."""
        return path_fingerprint(self.folder, suffixes=(".safetensors",))

    def read(self, matrix: MatrixShape) -> np.ndarray:
        """Read one matrix.

        Args:
            matrix: One of `matrices`.

        Returns:
            Float array, (d_out, d_in) or its transpose, as stored.

        Raises:
            CheckpointError: If the checkpoint has no such tensor.
        """
        wanted = f"{matrix.name}.weight"
        # Some files leave out the first part of the module path (GPT-2: `h.0...` for `transformer.h.0...`).
        for name in (wanted, wanted.partition(".")[2]):
            if name in self.tensors:
                return self.tensors[name].read()
        raise CheckpointError(f"{self.folder} has no tensor {wanted}.")
