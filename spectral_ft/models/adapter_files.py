"""A LoRA adapter of PEFT, from whatever tool, read matrix by matrix without torch or PEFT; and one written so.

Scalings are those of PEFT: `alpha / r`, or `alpha / sqrt(r)` for rsLoRA, with `rank_pattern` and `alpha_pattern`
matched as PEFT matches them.

Known gaps: adapters of stacked expert parameters (`target_parameters`), and every other method of PEFT, are refused.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from spectral_ft.bfloat16 import widened
from spectral_ft.errors import CheckpointError
from spectral_ft.models.tensors import Tensor, safetensors_contents
from spectral_ft.models.torch_files import load_state_dict
from spectral_ft.storage import replacing, write_text

CONFIG, WEIGHTS, TORCH_WEIGHTS = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
KEY = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+?)"
    r"\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.(?P<adapter>(?!(?:weight|bias)$)[^.]+))?(?:\.(?P<leaf>weight|bias))?"
)
"""`base_model.model.MODULE.lora_A.weight`, with or without the prefix, the adapter's name or the `.weight`."""
MOVED_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
"""Starts of PEFT's `init_lora_weights` that also change the base: the stored factors hold what was taken from it."""


@dataclass(frozen=True)
class AdapterMatrix:
    """One adapted matrix: where its factors lie, and what their product is multiplied by."""

    name: str
    """Module path in the base."""
    a: Tensor
    """(r, d_in), of a convolution (r, channels, ...)."""
    b: Tensor
    """(d_out, r)."""
    alpha: float
    rslora: bool
    embedding: bool
    magnitude: Tensor | None
    """DoRA's, of d_out numbers."""
    bias: Tensor | None
    """Of B, with `lora_bias`."""

    @property
    def rank(self) -> int:
        """R of the factors."""
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in); an embedding's is turned, a convolution's is flattened."""
        return self.b.shape[0], math.prod(self.a.shape[1:])

    @property
    def scaling(self) -> float:
        """What the product is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @property
    def parameters(self) -> int:
        """Of the factors, and of what belongs to them."""
        beside = [tensor for tensor in (self.magnitude, self.bias) if tensor is not None]
        return self.rank * sum(self.shape) + sum(math.prod(tensor.shape) for tensor in beside)

    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """Read both factors.

        Returns:
            A (r, d_in) and B (d_out, r), as stored or float32 for bf16.

        Raises:
            CheckpointError: If an entry is NaN or infinite.
        """
        found = []
        for label, tensor in (("A", self.a), ("B", self.b)):
            values = widened(tensor.read())
            if wrong := values.size - int(np.count_nonzero(np.isfinite(values))):
                raise CheckpointError(
                    f"factor {label} of {self.name} has {wrong} of {values.size} entries that are NaN or infinite: "
                    "its training diverged. Repeat it with a lower learning rate, or take an earlier checkpoint."
                )
            found.append(values.reshape(len(values), -1))
        return found[0], found[1]


@dataclass(frozen=True)
class AdapterFiles:
    """A folder with a LoRA adapter."""

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of `adapter_config.json`.

        Raises:
            CheckpointError: If it is missing, damaged, or that of something other than LoRA.
        """
        path = self.folder / CONFIG
        try:
            found = json.loads(path.read_text())
            kind = str(found["peft_type"])
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{self.folder} holds no adapter: {CONFIG} is missing. Give a folder as PEFT's save_pretrained writes "
                "it, or a run that has one."
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged: {error!r}. Save the adapter again.") from error
        if kind != "LORA":
            raise CheckpointError(
                f"{self.folder} holds an adapter of type {kind}, which has no plain LoRA factors A and B: give one of "
                "type LORA (LoRA, rsLoRA, DoRA, EVA and whatever PEFT saves so)."
            )
        if found.get("target_parameters"):
            raise CheckpointError(
                f"{self.folder} adapts stacked parameters (target_parameters={found['target_parameters']}), whose "
                "factors belong to several matrices at a time: only adapters of modules can be read."
            )
        return dict(found)

    @property
    def saved_whole(self) -> list[str]:
        """Names of tensors that are saved next to the factors: `modules_to_save`, embeddings."""
        return sorted(self._parts[1])

    @cached_property
    def matrices(self) -> tuple[AdapterMatrix, ...]:
        """Every adapted matrix, in the order of number and name.

        Raises:
            CheckpointError: If there is none, a factor is missing, or weights and configuration disagree.
        """
        config, parts = self.config, self._parts[0]
        if not parts:
            raise CheckpointError(
                f"{self.folder} holds no LoRA factors: none of its {len(self._parts[1])} tensors is a lora_A or lora_B."
            )
        found = []
        for name in sorted(parts, key=_natural):
            own = parts[name]
            embedding = "lora_embedding_A" in own or "lora_embedding_B" in own
            label = "lora_embedding_" if embedding else "lora_"
            a, b = own.get(f"{label}A"), own.get(f"{label}B")
            if a is None or b is None:
                missing = f"{label}{'A' if a is None else 'B'}"
                raise CheckpointError(f"{missing} of {name} is missing from {self.folder}. Save the adapter again.")
            if (
                len(a.shape) < 2
                or len(b.shape) < 2
                or a.shape[0] != b.shape[1]
                or math.prod(b.shape) != math.prod(b.shape[:2])
            ):
                raise CheckpointError(
                    f"{name} in {self.folder} has A of shape {a.shape} and B of shape {b.shape}, which are no factors: "
                    "A must be (r, d_in) and B (d_out, r)."
                )
            rank = _by_pattern(config, "rank_pattern", name, config.get("r"))
            if rank != a.shape[0]:
                raise CheckpointError(
                    f"{name} has rank {a.shape[0]} in the weights of {self.folder} and {rank} in its {CONFIG}: the "
                    "scaling is not known. Save the adapter again."
                )
            alpha = _by_pattern(config, "alpha_pattern", name, config.get("lora_alpha"))
            found.append(
                AdapterMatrix(
                    name=name,
                    a=a,
                    b=b,
                    alpha=float(alpha),
                    rslora=bool(config.get("use_rslora")),
                    embedding=embedding,
                    magnitude=own.get("lora_magnitude_vector"),
                    bias=own.get("lora_B.bias"),
                )
            )
        return tuple(found)

    @property
    def moved_base(self) -> str | None:
        """The start that changed the base together with the factors; None for the others."""
        start = str(self.config.get("init_lora_weights"))
        return start if start.lower().startswith(MOVED_BASE) else None

    def beside(self) -> dict[str, np.ndarray]:
        """Read what is saved next to the factors.

        Returns:
            Tensor name to entries; bf16 as float32.
        """
        return {name: widened(tensor.read()) for name, tensor in self._parts[1].items()}

    @cached_property
    def _parts(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
        modules: dict[str, dict[str, Tensor]] = {}
        beside: dict[str, Tensor] = {}
        adapters: set[str] = set()
        twice: str | None = None
        for key, tensor in self._tensors.items():
            if not (match := KEY.fullmatch(key)):
                beside[key] = tensor
                continue
            part = match["part"] + (".bias" if match["leaf"] == "bias" else "")
            adapters |= {match["adapter"]} - {None}
            own = modules.setdefault(match["module"], {})
            twice = match["module"] if part in own and twice is None else twice
            own[part] = tensor
        if len(adapters) > 1:
            raise CheckpointError(
                f"{self.folder} holds several adapters, {', '.join(sorted(adapters))}: save the one that is meant in a "
                "folder alone."
            )
        if twice is not None:
            raise CheckpointError(f"{twice} has its factors twice in {self.folder}. Save the adapter again.")
        return modules, beside

    @cached_property
    def _tensors(self) -> Mapping[str, Tensor]:
        self.config  # noqa: B018 - what is no LoRA adapter is refused before its weights are looked for
        if (self.folder / WEIGHTS).is_file():
            found = safetensors_contents(self.folder).tensors
            return {name: tensor for name, tensor in found.items() if tensor.file.name == WEIGHTS}  # type: ignore[attr-defined]
        if (self.folder / TORCH_WEIGHTS).is_file():
            return load_state_dict(self.folder / TORCH_WEIGHTS)
        raise CheckpointError(f"{self.folder} holds no adapter weights: neither {WEIGHTS} nor {TORCH_WEIGHTS}.")


def located_adapter(folder: Path) -> AdapterFiles:
    """The adapter in a folder, or in its only subfolder that has one, as PEFT saves adapters with a name.

    Args:
        folder: Existing or not.

    Returns:
        The adapter, its configuration checked.

    Raises:
        CheckpointError: If there is none, or several.
    """
    if not folder.is_dir():
        raise CheckpointError(f"adapter={folder} does not exist or is no folder: give that of an adapter, or of a run.")
    if not (folder / CONFIG).is_file():
        inside = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
        if len(inside) > 1:
            raise CheckpointError(
                f"{folder} holds several adapters, in {', '.join(path.name for path in inside)}: name one of them."
            )
        folder = inside[0] if inside else folder
    found = AdapterFiles(folder)
    found.config  # noqa: B018 - read now, so that what is no adapter is refused first
    return found


def write_adapter(
    folder: Path,
    factors: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    like: Mapping[str, Any],
    scalings: Mapping[str, float],
    embeddings: frozenset[str] = frozenset(),
    beside: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a standard adapter of PEFT, in float32, in one move.

    Args:
        folder: Of the adapter; what is there is replaced.
        factors: Module path to A (r, d_in) and B (d_out, r), in any shape that PEFT stores; r at least 1.
        like: An `adapter_config.json` whose other settings are kept.
        scalings: Module path to what the product is multiplied by.
        embeddings: Those of the modules that are embeddings.
        beside: Further tensors, by their names in the file.
    """
    ranks = {name: len(a) for name, (a, _) in factors.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    root = math.sqrt if like.get("use_rslora") else float
    alphas = {name: scalings[name] * root(rank) for name, rank in ranks.items()}
    usual_alpha = Counter(alphas.values()).most_common(1)[0][0]
    config = {
        **like,
        "r": usual,
        "lora_alpha": _whole(usual_alpha),
        "rank_pattern": {re.escape(name): rank for name, rank in ranks.items() if rank != usual},
        "alpha_pattern": {re.escape(n): _whole(alpha) for n, alpha in alphas.items() if alpha != usual_alpha},
        "target_modules": list(ranks),
        "inference_mode": True,
    }
    # What chose modules before is in the list now; a start by data or by the base is past.
    config |= dict.fromkeys(("layers_to_transform", "layers_pattern", "exclude_modules", "eva_config", "corda_config"))
    config |= {"init_lora_weights": True, "loftq_config": {}}
    tensors = {}
    for name, pair in factors.items():
        for side, factor in zip("AB", pair, strict=True):
            key = f"lora_embedding_{side}" if name in embeddings else f"lora_{side}.weight"
            tensors[f"{PREFIX}{name}.{key}"] = np.ascontiguousarray(factor, np.float32)
    for name, values in (beside or {}).items():
        tensors[name] = np.ascontiguousarray(values)
    with replacing(folder) as part:
        part.mkdir()
        save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
        write_text(part / CONFIG, json.dumps(config, indent=2) + "\n")


def _by_pattern(config: Mapping[str, Any], pattern: str, name: str, default: Any) -> Any:
    for key, value in (config.get(pattern) or {}).items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    if default is None:
        raise CheckpointError(f"{CONFIG} says no {'r' if pattern == 'rank_pattern' else 'lora_alpha'} for {name}.")
    return default


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value
