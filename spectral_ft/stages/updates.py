"""A LoRA adapter to `update.parquet`: the spectrum of each update, the ranks it suggests, and two adapters compared.

Nothing here loads torch; factors are read matrix by matrix, and so is the base, if there is one.
"""

import hashlib
import logging
import math
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from spectral_ft.adapters.origin import check_origin
from spectral_ft.allocation.budget import Budget
from spectral_ft.bfloat16 import widened
from spectral_ft.errors import CheckpointError, ConfigError, PlanError
from spectral_ft.experiment import Experiment
from spectral_ft.identity import adapter_folder
from spectral_ft.models.adapter_files import AdapterFiles, AdapterMatrix, located_adapter
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.spectral.drift import drift_columns
from spectral_ft.spectral.drift_settings import DriftSettings
from spectral_ft.spectral.updates import (
    budget_ranks,
    decomposed_update,
    energy_rank,
    pair_columns,
    update_columns,
    update_values,
)
from spectral_ft.stages.drift import workers
from spectral_ft.storage import replacing, write_json
from spectral_ft.types import MatrixShape

log = logging.getLogger(__name__)
TABLE, PAIR, SUGGESTION = "update", "pair", "suggestion.json"
DEAD = 1e-6
"""Share of the mean energy of a matrix below which an update counts as dead."""
DEFAULT_ENERGY = 0.95
"""Of a suggestion, if no rule was given."""


@dataclass(frozen=True)
class RankRule:
    """How ranks are chosen: by a budget, by the energy that they keep, or by the noise edge."""

    budget: Budget
    energy: float | None
    edge: bool

    def __post_init__(self) -> None:
        """Check that at most one is given.

        Raises:
            ConfigError: If several are, or one cannot be.
        """
        given = [
            *([f"budget={self.budget.kind}"] if self.budget.kind != "none" else []),
            *([f"energy={self.energy:g}"] if self.energy is not None else []),
            *(["edge=true"] if self.edge else []),
        ]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} each choose the ranks: keep one of them.")
        if self.budget.kind == "match":
            raise ConfigError("budget=match counts a plan, and an update has none: use budget=params or percent.")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise ConfigError(f"energy={self.energy:g} is not a share: it must be above 0 and at most 1.")

    @property
    def given(self) -> bool:
        """Whether there is a rule."""
        return self.budget.kind != "none" or self.energy is not None or self.edge

    def __str__(self) -> str:
        """As a user types it.

        Returns:
            The option with its value.
        """
        if self.energy is not None:
            return f"energy={self.energy:g}"
        return "edge=true" if self.edge else f"budget={self.budget.kind} budget.value={self.budget.value:g}"


@dataclass(frozen=True)
class Sizes:
    """What choosing the ranks of one matrix takes."""

    values: np.ndarray
    """Singular values, descending; weighted ones for a weighted cut."""
    cost: int
    """Parameters of one rank."""
    spikes: float | None
    """Values above the noise edge; None if there is no edge."""
    fixed: int = 0
    """Parameters that stay as long as the matrix has an adapter."""


def chosen_ranks(sizes: Mapping[str, Sizes], rule: RankRule, *, base_parameters: int | None) -> dict[str, int]:
    """The rank of each matrix by a rule; 0 leaves it out.

    Args:
        sizes: Of every matrix. One with fixed parameters keeps rank 1.
        rule: Budget, energy or edge.
        base_parameters: Of the base; None if it is not known.

    Returns:
        Name to rank.

    Raises:
        PlanError: If the budget is below the least possible, nothing would be left, or there is no edge.
        ConfigError: If a percentage is asked for without a base.
    """
    least = {name: int(size.fixed > 0) for name, size in sizes.items()}
    if rule.energy is not None:
        ranks = {name: energy_rank(size.values, rule.energy) for name, size in sizes.items()}
    elif rule.edge:
        if without := [name for name, size in sizes.items() if size.spikes is None]:
            raise PlanError(
                f"edge=true: {len(without)} of {len(sizes)} updates have no noise edge, the first of them "
                f"{without[0]} (the reasons are in the table of `analyze`): use energy=0.99 or a budget."
            )
        ranks = {name: int(size.spikes or 0) for name, size in sizes.items()}
    else:
        if rule.budget.kind == "percent" and base_parameters is None:
            raise ConfigError("budget=percent counts the base: name it with model=, or use budget=params.")
        target = int(rule.budget.target(base_parameters or 0) or 0)
        try:
            ranks = budget_ranks(
                {name: size.values for name, size in sizes.items()},
                {name: size.cost for name, size in sizes.items()},
                target - sum(size.fixed for size in sizes.values()),
                least=least,
            )
        except ValueError as error:
            fixed = sum(size.fixed for size in sizes.values())
            also = f" next to {fixed:,} that stay (magnitudes or biases)" if fixed else ""
            raise PlanError(
                f"budget.value={rule.budget.value:g}: {error}{also}. Raise budget.value; the adapter as it is has "
                f"{sum(len(s.values) * s.cost + s.fixed for s in sizes.values()):,}."
            ) from error
    ranks = {name: max(rank, least[name]) for name, rank in ranks.items()}
    if not any(ranks.values()):
        raise PlanError(f"{rule} leaves no matrix a rank: choose a larger one.")
    return ranks


def opened_adapter(named: str, experiment: Experiment, checkpoint: Checkpoint | None) -> AdapterFiles:
    """The adapter that a user names, checked against its base before anything is computed.

    Args:
        named: Its folder, or that of a run which has one.
        experiment: Its components, for the base's name.
        checkpoint: The base; None if no model was named.

    Returns:
        The adapter.

    Raises:
        CheckpointError: If it is none, or belongs to another base.
    """
    adapter = located_adapter(adapter_folder(Path(named).expanduser()))
    if adapter.moved_base:
        log.warning(
            "%s was started with init_lora_weights=%s, which also changed the base: its factors contain what was taken "
            "from the base, and their spectrum is not that of the training alone",
            adapter.folder,
            adapter.moved_base,
        )
    if adapter.saved_whole:
        log.info("%s also holds %s, saved whole", adapter.folder, _listed(adapter.saved_whole))
    if checkpoint is not None:
        check_origin(adapter.folder, model=experiment.model.label, fingerprint=checkpoint.fingerprint)
        _check_shapes(adapter, checkpoint)
    else:
        adapter.matrices  # noqa: B018 - read now, so that what is damaged is refused first
    return adapter


def audited(adapter: AdapterFiles) -> pd.DataFrame:
    """The spectrum of every update, and what it says.

    Args:
        adapter: Its factors are read one matrix at a time.

    Returns:
        One row a matrix, as docs/updates.md describes, with `singular_values`.

    Raises:
        CheckpointError: If a factor is not finite, or every update is zero.
    """
    began = time.perf_counter()
    types = _types([matrix.name for matrix in adapter.matrices])
    seen: dict[str, dict[bytes, str]] = {"A": {}, "B": {}}
    rows = []
    with threadpool_limits(1):  # several BLAS threads on such narrow factors only wait for one another
        for matrix in adapter.matrices:
            a, b = matrix.factors()
            values = update_values(a, b, scaling=matrix.scaling)
            columns, reasons = update_columns(values, matrix.shape, rank=matrix.rank)
            tied = {f"tied_{side}": _tied(seen[side], f, matrix.name) for side, f in (("A", a), ("B", b))}
            rows.append({
                "name": matrix.name,
                **types[matrix.name],
                "rows": matrix.shape[0],
                "cols": matrix.shape[1],
                "rank": matrix.rank,
                "lora_alpha": matrix.alpha,
                "scaling": matrix.scaling,
                "dora": matrix.magnitude is not None,
                "parameters": matrix.parameters,
                **tied,
                **columns,
                "reasons": "; ".join(f"{column}: {why}" for column, why in reasons.items()),
                "singular_values": values,
            })
    frame = pd.DataFrame(rows)
    energy = np.array([float(np.sum(np.square(values))) for values in frame["singular_values"]])
    if not energy.any():
        raise CheckpointError(
            f"every update in {adapter.folder} is zero: B is as it was before the first step, or a scaling is 0. Train "
            "it first."
        )
    frame.insert(frame.columns.get_loc("spectral_norm"), "energy_share", energy / energy.sum())  # type: ignore[arg-type]
    frame.insert(frame.columns.get_loc("spectral_norm"), "dead", energy < DEAD * energy.mean())  # type: ignore[arg-type]
    log.info(
        "audited %d updates of %s in %.1f s: %s parameters, %.0f %% of the rank used in the median, %d dead",
        len(frame),
        adapter.folder,
        time.perf_counter() - began,
        f"{frame['parameters'].sum():,}",
        100 * frame["used"].astype(float).median(),
        frame["dead"].sum(),
    )
    return frame


def next_to_base(
    frame: pd.DataFrame, adapter: AdapterFiles, experiment: Experiment, checkpoint: Checkpoint
) -> pd.DataFrame:
    """The same with the columns of docs/drift.md: each update next to the matrix that it changes.

    Args:
        frame: Of `audited`.
        adapter: The adapter.
        experiment: `drift` has the options, `spectrum.include` and `exclude` say for which matrices.
        checkpoint: The base.

    Returns:
        The frame with further columns, null for matrices that are not of a block or were left out.
    """
    settings = experiment.drift
    if not isinstance(settings, DriftSettings):
        settings = DriftSettings(top=10, threshold=0.5, columns=[])
    matrices = replace(checkpoint, dequantize=True).block_matrices
    known = {matrix.name: matrix for matrix in matrices.matrices}
    pairs = [(m, known[m.name]) for m in adapter.matrices if m.name in known and experiment.spectrum.wants(m.name)]
    how = experiment.spectrum.analysis

    def row(pair: tuple[AdapterMatrix, MatrixShape]) -> dict[str, Any]:
        adapted, matrix = pair
        before = np.asarray(widened(matrices.read(matrix)), np.float64)
        columns, reasons = drift_columns(before, changed(adapted, before), settings=settings, options=how.options)
        return {"name": matrix.name, **columns, "drift_reasons": "; ".join(f"{c}: {w}" for c, w in reasons.items())}

    if not pairs:
        return frame
    with threadpool_limits(1), ThreadPoolExecutor(workers(tuple(matrix for _, matrix in pairs), how)) as pool:
        found = pd.DataFrame(list(pool.map(row, pairs)))
    return frame.merge(found, on="name", how="left")


def changed(adapted: AdapterMatrix, before: np.ndarray) -> np.ndarray:
    """What a matrix of the base has become.

    Args:
        adapted: Its adapter.
        before: W, float64 (d_out, d_in).

    Returns:
        `W + scaling B A`, for DoRA with each row at the length that was trained.
    """
    a, b = adapted.factors()
    after = before + adapted.scaling * (np.asarray(b, np.float64) @ np.asarray(a, np.float64))
    if adapted.magnitude is not None:
        lengths = widened(adapted.magnitude.read()).reshape(-1)
        after *= (lengths / np.linalg.norm(after, axis=1))[:, None]
    return after


def suggested(
    frame: pd.DataFrame, adapter: AdapterFiles, rule: RankRule, *, base_parameters: int | None
) -> dict[str, Any]:
    """Ranks by a rule, as options of `peft.LoraConfig`.

    Args:
        frame: Of `audited`.
        adapter: The adapter.
        rule: How the ranks are chosen.
        base_parameters: Of the base, for a percentage.

    Returns:
        `r`, `lora_alpha`, `rank_pattern`, `alpha_pattern`, `target_modules`, `use_rslora`, and under `spectral_ft` the
        rule, the parameters and the share of the energy that is kept.
    """
    columns = (frame[column] for column in ("singular_values", "num_spikes"))
    sizes = {
        matrix.name: Sizes(
            values,
            sum(matrix.shape),
            None if pd.isna(spikes) else float(spikes),
            matrix.parameters - matrix.rank * sum(matrix.shape),
        )
        for matrix, values, spikes in zip(adapter.matrices, *columns, strict=True)
    }
    ranks = chosen_ranks(sizes, rule, base_parameters=base_parameters)
    kept = {matrix.name: matrix for matrix in adapter.matrices if ranks[matrix.name]}
    rslora = bool(adapter.config.get("use_rslora"))
    alphas = {name: m.scaling * (math.sqrt(ranks[name]) if rslora else ranks[name]) for name, m in kept.items()}
    usual = Counter(ranks[name] for name in kept).most_common(1)[0][0]
    usual_alpha = Counter(alphas.values()).most_common(1)[0][0]
    total = sum(float(np.sum(np.square(size.values))) for size in sizes.values())
    return {
        "r": usual,
        "lora_alpha": usual_alpha,
        "rank_pattern": {re.escape(name): ranks[name] for name in kept if ranks[name] != usual},
        "alpha_pattern": {re.escape(name): alpha for name, alpha in alphas.items() if alpha != usual_alpha},
        "target_modules": list(kept),
        "use_rslora": rslora,
        "spectral_ft": {
            "rule": str(rule),
            "parameters": sum(ranks[name] * sizes[name].cost + sizes[name].fixed for name in kept),
            "parameters_before": sum(matrix.parameters for matrix in adapter.matrices),
            "matrices": len(kept),
            "energy_kept": sum(float(np.sum(np.square(sizes[n].values[: ranks[n]]))) for n in kept) / total,
        },
    }


def paired(one: AdapterFiles, other: AdapterFiles) -> pd.DataFrame:
    """Two adapters of one base, matrix by matrix.

    Args:
        one: The first.
        other: The second.

    Returns:
        One row a matrix that both adapt, as docs/updates.md describes.

    Raises:
        CheckpointError: If they have no matrix in common, or one of two shapes.
    """
    others = {matrix.name: matrix for matrix in other.matrices}
    common = [(matrix, others[matrix.name]) for matrix in one.matrices if matrix.name in others]
    if not common:
        raise CheckpointError(
            f"{one.folder} and {other.folder} adapt no matrix in common, so there is nothing to compare: their sum is "
            "each of them where it is."
        )
    if wrong := next((pair for pair in common if pair[0].shape != pair[1].shape), None):
        raise CheckpointError(
            f"{wrong[0].name} has shape {wrong[0].shape} in {one.folder} and {wrong[1].shape} in {other.folder}: they "
            "are adapters of two bases."
        )
    types = _types([first.name for first, _ in common])
    rows = []
    with threadpool_limits(1):
        for first, second in common:
            one_update, other_update = (decomposed_update(*m.factors(), scaling=m.scaling) for m in (first, second))
            columns, reasons = pair_columns(one_update, other_update)
            rows.append({
                "name": first.name,
                **types[first.name],
                "rows": first.shape[0],
                "cols": first.shape[1],
                **columns,
                "reasons": "; ".join(sorted({f"{why}" for why in reasons.values()})),
            })
    alone = (len(one.matrices) - len(common), len(other.matrices) - len(common))
    log.info("compared %d updates that both adapt; %d are of the first alone, %d of the second", len(common), *alone)
    return pd.DataFrame(rows)


def write_frame(folder: Path, name: str, frame: pd.DataFrame) -> list[Path]:
    """Write a table as parquet and CSV; the CSV has no singular values.

    Args:
        folder: Where to.
        name: Of the files, without their ends.
        frame: The table.

    Returns:
        The files.
    """
    with replacing(folder / f"{name}.parquet") as part:
        frame.to_parquet(part, index=False)
    with replacing(folder / f"{name}.csv") as part:
        frame.drop(columns="singular_values", errors="ignore").to_csv(part, index=False)
    return [folder / f"{name}.parquet", folder / f"{name}.csv"]


def analyse_adapters(
    experiment: Experiment,
    named: str | Sequence[str],
    rule: RankRule,
    *,
    checkpoint: Checkpoint | None,
    folder: Path,
) -> tuple[str, list[Path]]:
    """Audit one adapter or two, compare the two, and write what was found.

    Args:
        experiment: Its components.
        named: One folder or two.
        rule: Of the suggestion; without one the ranks that keep 95 % of the squared singular values.
        checkpoint: The base; None if no model was named.
        folder: Gets the files.

    Returns:
        Text for a terminal, and the files.

    Raises:
        ConfigError: If more than two are named, or one is named twice.
    """
    from spectral_ft.reporting.update_table import draw_updates, pair_table, update_table

    names = [named] if isinstance(named, str) else list(named)
    if not 1 <= len(names) <= 2:
        raise ConfigError(f"adapter={','.join(names)} names {len(names)} adapters: `analyze` takes one, or two.")
    adapters = [opened_adapter(name, experiment, checkpoint) for name in names]
    if len({adapter.folder.resolve() for adapter in adapters}) < len(adapters):
        raise ConfigError(f"adapter={names[0]} is named twice: name two different ones to compare them.")
    if not rule.given:
        rule = replace(rule, energy=DEFAULT_ENERGY)
    found = []
    for adapter in adapters:
        frame = audited(adapter)
        suggestion = suggested(frame, adapter, rule, base_parameters=_counted(rule, checkpoint))
        found.append((frame, suggestion))
    pair = paired(*adapters) if len(adapters) == 2 else None
    if checkpoint is not None:
        found = [(next_to_base(f, a, experiment, checkpoint), s) for a, (f, s) in zip(adapters, found, strict=True)]
    texts, files = [], []  # nothing is written before everything could be computed
    for number, (name, (frame, suggestion)) in enumerate(zip(names, found, strict=True), 1):
        place = folder if pair is None else folder / str(number)
        files += write_frame(place, TABLE, frame)
        write_json(place / SUGGESTION, suggestion)
        files.append(place / SUGGESTION)
        texts.append(update_table(frame, suggestion, title=name))
        if experiment.figures:
            files += draw_updates(place / "figures", frame, title=name)
    if pair is not None:
        files += write_frame(folder, PAIR, pair)
        texts.append(pair_table(pair, *names))
    return "".join(texts), files


def parameters_of(checkpoint: Checkpoint) -> int:
    """How many parameters the files of a base hold, tied ones once.

    Args:
        checkpoint: The base.

    Returns:
        The number.

    Raises:
        ConfigError: If its weights are packed, so that their entries are not its parameters.
    """
    tensors = checkpoint.contents.tensors
    if packed := next((name for name, tensor in tensors.items() if not tensor.is_float), None):
        raise ConfigError(f"budget=percent cannot count {checkpoint.folder}: {packed} is packed. Use budget=params.")
    return sum(math.prod(tensor.shape) for tensor in tensors.values())


def _counted(rule: RankRule, checkpoint: Checkpoint | None) -> int | None:
    return parameters_of(checkpoint) if checkpoint is not None and rule.budget.kind == "percent" else None


def _check_shapes(adapter: AdapterFiles, checkpoint: Checkpoint) -> None:
    known = {m.name: m.sides for m in replace(checkpoint, dequantize=True).block_matrices.matrices}
    for name, tensor in checkpoint.contents.tensors.items():
        known.setdefault(name.removesuffix(".weight"), (tensor.shape[0], math.prod(tensor.shape[1:])))
    tied = "lm_head" if checkpoint.config.get("tie_word_embeddings") else None
    for matrix in adapter.matrices:
        there = known.get(matrix.name)
        if there is None and matrix.name == tied:
            continue
        if there is None:
            raise CheckpointError(
                f"{adapter.folder} adapts {matrix.name}, which {checkpoint.folder} does not have: give the base that "
                "it was trained on."
            )
        if matrix.shape != (there[::-1] if matrix.embedding else there):
            raise CheckpointError(
                f"{adapter.folder} has {matrix.name} of shape {matrix.shape}, {checkpoint.folder} has it of shape "
                f"{there}: give the base that it was trained on."
            )


def _tied(seen: dict[bytes, str], factor: np.ndarray, name: str) -> str | None:
    # The first matrix with the same factor. Its Gram triangle would do; its bytes are there anyway.
    digest = hashlib.blake2b(np.ascontiguousarray(factor).data, digest_size=16).digest()
    first = seen.setdefault(digest, name)
    return None if first == name or not factor.any() else first


def _types(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    # Without a base the architecture is not known: the block is the first number, the type the end of the path that
    # no other path within a block shares.
    leaves: dict[str, tuple[int, str]] = {}
    for name in names:
        parts = name.split(".")
        number = next((place for place, part in enumerate(parts) if part.isdigit()), None)
        rest = [part for part in parts[(number if number is not None else -1) + 1 :] if not part.isdigit()]
        leaves[name] = (int(parts[number]) if number is not None else 0, ".".join(rest) or name)
    ends = Counter(leaf.split(".")[-1] for leaf in {leaf for _, leaf in leaves.values()})
    return {
        name: {"type": leaf if ends[leaf.split(".")[-1]] > 1 else leaf.split(".")[-1], "block": block}
        for name, (block, leaf) in leaves.items()
    }


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
