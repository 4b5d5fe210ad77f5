"""A base and a fine-tuned checkpoint to a LoRA adapter, one matrix in memory at a time.

The best adapter of a rank for `U = W' - W` is its truncated singular value decomposition. What is no matrix of
a block (embeddings, norms, heads) is compared and named, not extracted.

Known gaps: singular values and factors come from two passes, so that every matrix is decomposed twice.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from spectral_ft.adapters.origin import write_origin
from spectral_ft.bfloat16 import widened
from spectral_ft.errors import CheckpointError, ConfigError
from spectral_ft.experiment import Experiment
from spectral_ft.identity import adapter_folder
from spectral_ft.models.adapter_files import write_adapter
from spectral_ft.models.block_matrices import BlockMatrices
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.models.kinds import task_type
from spectral_ft.models.tensors import Contents, Tensor, safetensors_contents
from spectral_ft.run_folder import mark_started
from spectral_ft.spectral.calibrated_bulk import calibrated_bulk
from spectral_ft.spectral.eigenvalues import Undefined
from spectral_ft.spectral.subspaces import decomposed
from spectral_ft.spectral.updates import balanced_factors, energy_rank
from spectral_ft.stages.base import load_base
from spectral_ft.stages.updates import RankRule, Sizes, chosen_ranks, parameters_of, write_frame
from spectral_ft.storage import write_json
from spectral_ft.types import AllocationPlan, MatrixAllocation, MatrixShape

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
TRAINED = "trained.safetensors"
"""What a run that trained whole tensors leaves in its adapter folder (`adapters.tensors.FILE`)."""
VOCABULARY = "tokenizer.json"


@dataclass(frozen=True)
class Pair:
    """A base and what fine-tuning made of it."""

    base: Checkpoint
    folder: Path
    """Of the fine-tuned checkpoint, or of the tensors that a run trained."""
    whole: bool
    """Whether the folder holds all tensors."""
    after: BlockMatrices
    tensors: dict[str, Tensor]
    """Of the fine-tuned side, as stored."""

    @property
    def before(self) -> BlockMatrices:
        """The matrices of the base."""
        return self.base.block_matrices

    @property
    def matrices(self) -> tuple[MatrixShape, ...]:
        """Those that both have."""
        return self.after.matrices

    def update(self, matrix: MatrixShape) -> np.ndarray:
        """`W' - W` of one matrix.

        Args:
            matrix: One of `matrices`.

        Returns:
            float64 (d_out, d_in).

        Raises:
            CheckpointError: If an entry is NaN or infinite.
        """
        values = []
        for side, folder in ((self.after, self.folder), (self.before, self.base.folder)):
            found = np.asarray(widened(side.read(matrix)), np.float64)
            if wrong := found.size - int(np.count_nonzero(np.isfinite(found))):
                raise CheckpointError(
                    f"{matrix.name} of {folder} has {wrong} of {found.size} entries that are NaN or infinite: take "
                    "another checkpoint."
                )
            values.append(found)
        return np.asarray(values[0] - values[1])


def opened_pair(experiment: Experiment, base: Checkpoint, named: str) -> Pair:
    """Check that two checkpoints are of one family, shape and vocabulary; only headers are read.

    Args:
        experiment: Its components.
        base: The base.
        named: Folder of the fine-tuned checkpoint, or of a run of `full` or `spectrum`.

    Returns:
        The pair.

    Raises:
        CheckpointError: If they are not a pair.
    """
    folder = Path(named).expanduser()
    trained = adapter_folder(folder)
    base.check_whole()
    if (trained / TRAINED).is_file():
        from spectral_ft.adapters.origin import check_origin

        check_origin(trained, model=experiment.model.label, fingerprint=base.fingerprint)
        found = dict(safetensors_contents(trained).tensors)
        known = {name: found[name] for name in found if name in base.contents.tensors}
        pair = Pair(base, trained, False, BlockMatrices(str(trained), base.model_type, Contents(known, {})), found)
    else:
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"tuned={folder} holds neither a checkpoint (config.json) nor what a run of full or spectrum trained: "
                "give the folder of one."
            )
        tuned = Checkpoint(folder)
        tuned.check_whole()
        if tuned.model_type != base.model_type:
            raise CheckpointError(
                f"tuned={folder} is of the family {tuned.model_type}, the base of {base.model_type}: give the base "
                "that was fine-tuned."
            )
        _check_vocabulary(base, tuned)
        pair = Pair(base, folder, True, tuned.block_matrices, dict(tuned.contents.tensors))
    _check_shapes(pair)
    return pair


def extract(
    experiment: Experiment, named: str, rule: RankRule, *, checkpoint: Checkpoint, folder: Path
) -> tuple[str, list[Path]]:
    """Extract an adapter, write it, and measure how far it is from the fine-tuned model.

    Args:
        experiment: Its components.
        named: Folder of the fine-tuned checkpoint, or of a run.
        rule: Budget, energy or edge.
        checkpoint: The base.
        folder: Gets `adapter/`, `extraction.parquet`, `extraction.csv` and `extraction.json`.

    Returns:
        Text for a terminal, and the files.

    Raises:
        ConfigError: If no rule was given.
        CheckpointError: If the two are no pair, or no matrix differs.
    """
    if not rule.given:
        raise ConfigError("give a size: budget=params budget.value=N, energy=0.99 or edge=true.")
    began = time.perf_counter()
    pair = opened_pair(experiment, checkpoint, named)
    values, spikes, norms = {}, {}, {}
    for matrix in pair.matrices:
        update = pair.update(matrix)
        values[matrix.name] = np.linalg.svd(update, compute_uv=False)
        norms[matrix.name] = float(np.linalg.norm(np.asarray(widened(pair.before.read(matrix)), np.float64)))
        spikes[matrix.name] = _spikes(values[matrix.name], matrix.sides)
    if not any(own.any() for own in values.values()):
        raise CheckpointError(
            f"{named} and {checkpoint.folder} have the same matrices, so the update is zero: nothing can be extracted."
        )
    sizes = {m.name: Sizes(values[m.name], sum(m.sides), spikes[m.name]) for m in pair.matrices}
    base_parameters = parameters_of(checkpoint) if rule.budget.kind == "percent" else None
    ranks = chosen_ranks(sizes, rule, base_parameters=base_parameters)
    factors = {
        matrix.name: balanced_factors(decomposed(pair.update(matrix)), ranks[matrix.name], scaling=1.0)
        for matrix in pair.matrices
        if ranks[matrix.name]
    }
    factors = {name: (a.astype(np.float32), b.astype(np.float32)) for name, (a, b) in factors.items()}
    frame = _frame(pair, values, ranks, norms, spikes)
    left_out = _left_out(pair)
    mark_started(folder, experiment.run_id, experiment.config)
    write_adapter(
        folder / "adapter",
        factors,
        like={
            "peft_type": "LORA",
            "task_type": task_type(experiment.model.kind),
            "base_model_name_or_path": experiment.model.id or str(checkpoint.folder),
            "revision": experiment.model.revision,
            "bias": "none",
            "lora_dropout": 0.0,
        },
        scalings=dict.fromkeys(factors, 1.0),
    )
    parameters = sum(a.size + b.size for a, b in factors.values())
    _write_origin(experiment, pair, ranks, parameters=parameters, folder=folder / "adapter")
    distances = _distances(experiment, pair, folder / "adapter")
    kept = 1 - (frame["norm_lost"] ** 2).sum() / (frame["norm"] ** 2).sum()
    write_json(
        folder / "extraction.json",
        {
            "rule": str(rule),
            "parameters": parameters,
            "matrices": len(factors),
            "energy_kept": float(kept),
            "logits": distances,
            "left_out": left_out,
        },
    )
    if left_out:
        log.warning(
            "%d tensors that are no matrix of a block differ and are not in the adapter, such as %s; extraction.json "
            "lists them",
            len(left_out),
            max(left_out, key=lambda name: left_out[name]),
        )
    log.info("extracted %d matrices in %.1f s", len(factors), time.perf_counter() - began)
    own, before = distances["adapter"]["relative"], distances["base"]["relative"]
    text = (
        f"{parameters:,} parameters in {len(factors)} of {len(frame)} matrices by {rule}: {100 * kept:.2f} % of the "
        f"squared norm\nlogits differ from the fine-tuned model's by {own:.2e} of their norm, those of the base by "
        f"{before:.2e}\n"
    )
    return text, [folder / "adapter", *write_frame(folder, "extraction", frame), folder / "extraction.json"]


def _frame(
    pair: Pair,
    values: dict[str, np.ndarray],
    ranks: dict[str, int],
    norms: dict[str, float],
    spikes: dict[str, float | None],
) -> pd.DataFrame:
    return pd.DataFrame([
        {
            "name": m.name,
            "type": m.type,
            "block": m.block,
            "rows": m.sides[0],
            "cols": m.sides[1],
            "rank": ranks[m.name],
            "norm": float(np.linalg.norm(values[m.name])),
            "norm_lost": float(np.linalg.norm(values[m.name][ranks[m.name] :])),
            "relative_frobenius": float(np.linalg.norm(values[m.name])) / norms[m.name] if norms[m.name] else None,
            "rank_90": energy_rank(values[m.name], 0.9),
            "rank_99": energy_rank(values[m.name], 0.99),
            "num_spikes": spikes[m.name],
            "singular_values": values[m.name],
        }
        for m in pair.matrices
    ])


def _spikes(values: np.ndarray, shape: tuple[int, int]) -> float | None:
    try:
        return float(calibrated_bulk(values, shape).num_spikes_calibrated)
    except Undefined:
        return None


def _left_out(pair: Pair) -> dict[str, float]:
    # Tensors outside of the blocks' matrices that differ, with the norm of the difference over that of the base's.
    places = pair.after.tensor_names
    found = {}
    for name, tensor in pair.tensors.items():
        before = pair.base.contents.tensors.get(name)
        if name in places or before is None or before.shape != tensor.shape or not tensor.is_float:
            continue
        one, other = (np.asarray(widened(t.read()), np.float32) for t in (before, tensor))
        if not np.array_equal(one, other):
            found[name] = float(np.linalg.norm(other - one)) / (float(np.linalg.norm(one)) or 1.0)
    return found


def _write_origin(experiment: Experiment, pair: Pair, ranks: dict[str, int], *, parameters: int, folder: Path) -> None:
    allocations = tuple(MatrixAllocation(m.name, ranks[m.name], float(ranks[m.name])) for m in pair.matrices)
    plan = AllocationPlan(allocations, parameters, parameters, parameters_of(pair.base))
    write_origin(folder, model=experiment.model.label, fingerprint=pair.base.fingerprint, plan=plan)


def _distances(experiment: Experiment, pair: Pair, adapter: Path) -> dict[str, dict[str, float]]:
    # How far the logits of the adapter on the base, and of the base alone, are from the fine-tuned model's.
    from spectral_ft.adapters import merging
    from spectral_ft.adapters.opening import open_adapter

    def of(make: Callable[[], Any]) -> "torch.Tensor":
        return merging.logits(make())

    base = of(lambda: load_base(experiment, pair.base).eval())
    if pair.whole:
        tuned = of(lambda: load_base(experiment, Checkpoint(pair.folder)).eval())
    else:
        tuned = of(lambda: open_adapter(load_base(experiment, pair.base), pair.folder))
    adapted = of(lambda: open_adapter(load_base(experiment, pair.base), adapter))
    return {name: asdict(merging.difference(tuned, one)) for name, one in (("adapter", adapted), ("base", base))}


def _check_vocabulary(base: Checkpoint, tuned: Checkpoint) -> None:
    sizes = [checkpoint.config.get("vocab_size") for checkpoint in (base, tuned)]
    if sizes[0] != sizes[1]:
        raise CheckpointError(
            f"tuned={tuned.folder} has a vocabulary of {sizes[1]} tokens, the base one of {sizes[0]}: an adapter "
            "cannot hold new tokens. Give a checkpoint with the tokenizer of the base."
        )
    words = [_words(checkpoint.folder) for checkpoint in (base, tuned)]
    if None in words:
        log.info("tokenizers were not compared: %s is missing from one of the two", VOCABULARY)
    elif words[0] != words[1]:
        raise CheckpointError(
            f"{tuned.folder / VOCABULARY} has other tokens than that of the base: the same numbers mean other texts. "
            "Give the base that was fine-tuned."
        )


def _words(folder: Path) -> tuple[Any, Any] | None:
    path = folder / VOCABULARY
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
        return found["model"]["vocab"], sorted((t["id"], t["content"]) for t in found.get("added_tokens", []))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}. Download it again.") from error


def _check_shapes(pair: Pair) -> None:
    before = {matrix.name: matrix for matrix in pair.before.matrices}
    after = {matrix.name: matrix for matrix in pair.after.matrices}
    unknown = sorted(after.keys() - before.keys()) or (sorted(before.keys() - after.keys()) if pair.whole else [])
    if unknown:
        lacking = pair.base.folder if unknown[0] in after else pair.folder
        raise CheckpointError(f"{lacking} has no matrix {unknown[0]}, the other one has: they are no pair.")
    for name, matrix in after.items():
        if matrix.sides != before[name].sides:
            raise CheckpointError(
                f"{name} has shape {matrix.sides} in {pair.folder} and {before[name].sides} in {pair.base.folder}: "
                "they are no pair."
            )
