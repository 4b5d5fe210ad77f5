"""A LoRA adapter to a smaller one: one cut over all matrices, weighted by what inputs or the loss feel."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from spectral_ft.adapters.origin import FILE as ORIGIN
from spectral_ft.adapters.origin import Origin, write_origin
from spectral_ft.allocation.budget import Budget
from spectral_ft.bfloat16 import widened
from spectral_ft.errors import CheckpointError, ConfigError
from spectral_ft.experiment import Experiment
from spectral_ft.models.adapter_files import PREFIX, AdapterFiles, AdapterMatrix, write_adapter
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.run_folder import mark_started
from spectral_ft.spectral.eigenvalues import Undefined
from spectral_ft.spectral.subspaces import Decomposed
from spectral_ft.spectral.updates import Core, Moment, balanced_factors, decomposed_update, noise_edge, weighted_core
from spectral_ft.stages.base import load_base
from spectral_ft.stages.updates import RankRule, Sizes, chosen_ranks, opened_adapter, parameters_of, write_frame
from spectral_ft.storage import read_json, write_json
from spectral_ft.types import AllocationPlan

if TYPE_CHECKING:
    from peft import PeftModel

log = logging.getLogger(__name__)
Weighting = Literal["none", "inputs", "fisher"]
SHARES = (0.75, 0.5, 0.25, 0.125, 0.0625)
"""Of the adapter's parameters, at which the curve has points."""
ADAPTER, ORIGINAL, COMPRESSED, CURVE = "adapter", "original", "compressed", "curve"


@dataclass(frozen=True)
class Compression:
    """What a cut left, before it is written."""

    adapter: AdapterFiles
    ranks: Mapping[str, int]
    cores: Mapping[str, Core | None]
    """Of a weighted cut; None without a weighting."""
    weighting: str
    rule: str

    @property
    def parameters(self) -> int:
        """Of the factors, with magnitudes and biases."""
        return sum(
            m.parameters - (m.rank - self.ranks[m.name]) * sum(m.shape)
            for m in self.adapter.matrices
            if self.ranks[m.name]
        )

    def frame(self) -> pd.DataFrame:
        """What became of every matrix.

        Returns:
            One row a matrix: its rank before and after, and the share of its squared norm that was kept.
        """
        rows = []
        for matrix in self.adapter.matrices:
            update, rank, core = _decomposed(matrix), self.ranks[matrix.name], self.cores[matrix.name]
            a, b = balanced_factors(update, rank, scaling=matrix.scaling or 1.0, core=core)
            inside = update.left.T @ b @ (a @ update.right) * (matrix.scaling or 1.0)
            total = float(np.linalg.norm(update.values)) or 1.0
            rows.append({
                "name": matrix.name,
                "rows": matrix.shape[0],
                "cols": matrix.shape[1],
                "rank_before": matrix.rank,
                "rank": rank,
                "energy_kept": 1 - float(np.linalg.norm(np.diag(update.values) - inside) / total) ** 2,
                "weighted_kept": _kept(core.values if core is not None else update.values, rank),
            })
        return pd.DataFrame(rows)

    def write(self, folder: Path, origin: Origin | None) -> None:
        """Write the smaller adapter, as stock PEFT opens it.

        Args:
            folder: Of the adapter.
            origin: Of the larger one.
        """
        kept = [matrix for matrix in self.adapter.matrices if self.ranks[matrix.name]]
        with threadpool_limits(1):
            factors = {matrix.name: self._factors(matrix) for matrix in kept}
        beside = {
            name if name.startswith(PREFIX) else PREFIX + name: values for name, values in self.adapter.beside().items()
        }
        for matrix in kept:
            for end, tensor in (("lora_magnitude_vector", matrix.magnitude), ("lora_B.bias", matrix.bias)):
                if tensor is not None:
                    beside[f"{PREFIX}{matrix.name}.{end}"] = widened(tensor.read())
        write_adapter(
            folder,
            factors,
            like=self.adapter.config,
            scalings={matrix.name: matrix.scaling for matrix in kept},
            embeddings=frozenset(matrix.name for matrix in kept if matrix.embedding),
            beside=beside,
        )
        if origin is not None:
            write_origin(folder, model=origin.model, fingerprint=origin.fingerprint, plan=self._plan(origin.plan))

    def _factors(self, matrix: AdapterMatrix) -> tuple[np.ndarray, np.ndarray]:
        rank = self.ranks[matrix.name]
        if rank == matrix.rank:
            return widened(matrix.a.read()), widened(matrix.b.read())
        a, b = balanced_factors(_decomposed(matrix), rank, scaling=matrix.scaling, core=self.cores[matrix.name])
        return a.reshape(rank, *matrix.a.shape[1:]), b.reshape(len(b), rank, *matrix.b.shape[2:])

    def _plan(self, plan: AllocationPlan) -> AllocationPlan:
        # Shared factors were saved as copies, and are cut one by one.
        allocations = tuple(
            replace(a, rank=rank, lora_alpha=a.lora_alpha * rank / a.rank if a.rank else 0.0, group=None, shares=None)
            for a in plan.allocations
            for rank in [self.ranks.get(a.name, 0)]
        )
        beside = plan.adapter_parameters - sum(matrix.parameters for matrix in self.adapter.matrices)
        count = self.parameters + max(beside, 0)
        return AllocationPlan(allocations, count, count, plan.base_parameters)


def compress(
    experiment: Experiment,
    named: str,
    rule: RankRule,
    *,
    weighting: str,
    curve: bool,
    checkpoint: Checkpoint | None,
    folder: Path,
) -> tuple[str, list[Path]]:
    """Cut an adapter, write it, and score it next to the original.

    Args:
        experiment: Its components; `probe` says how many calibration batches there are, `benchmark` what is scored.
        named: Folder of the adapter, or of a run that has one.
        rule: Budget, energy or edge.
        weighting: `none`, `inputs` or `fisher`.
        curve: Also score several sizes, for all weightings.
        checkpoint: The base; None if no model was named, and then nothing is scored.
        folder: Gets `adapter/`, `compression.parquet`, `compression.csv`, `compression.json`, and with a base
            `original/`, `compressed/` and `comparison.csv`.

    Returns:
        Text for a terminal, and the files.

    Raises:
        CheckpointError: If there is nothing to cut.
        ConfigError: If the options do not go together.
    """
    _check_options(rule, weighting, curve, checkpoint)
    adapter = opened_adapter(named, experiment, checkpoint)
    if not any(matrix.scaling for matrix in adapter.matrices):
        raise CheckpointError(
            f"every scaling in {adapter.folder} is 0, so its update is zero: there is nothing to cut."
        )
    weightings = get_args(Weighting) if curve else (weighting,)
    moments = _moments(experiment, adapter, checkpoint, folder, weightings) if checkpoint is not None else None
    base_parameters = parameters_of(checkpoint) if checkpoint is not None and rule.budget.kind == "percent" else None
    found = cut(adapter, rule, weighting, moments=moments, base_parameters=base_parameters)
    frame, origin = found.frame(), _origin(adapter)
    mark_started(folder, experiment.run_id, experiment.config)
    found.write(folder / ADAPTER, origin)
    files = [folder / ADAPTER, *write_frame(folder, "compression", frame)]
    before = sum(matrix.parameters for matrix in adapter.matrices)
    kept = frame["energy_kept"]
    write_json(
        folder / "compression.json",
        {
            "rule": str(rule),
            "weighting": weighting,
            "parameters_before": before,
            "parameters": found.parameters,
            "matrices_before": len(frame),
            "matrices": int((frame["rank"] > 0).sum()),
        },
    )
    text = (
        f"{adapter.folder}: {found.parameters:,} of {before:,} parameters kept by {rule} weighting={weighting}, in "
        f"{(frame['rank'] > 0).sum()} of {len(frame)} matrices; of a matrix {100 * kept.median():.1f} % of the squared "
        "norm in the median\n"
    )
    files.append(folder / "compression.json")
    if checkpoint is None:
        log.info("not scored: name the base with model= to compare both on a benchmark")
        return text, files
    from spectral_ft.reporting.comparison import compare_runs
    from spectral_ft.stages.benchmarks import prepare_tasks, source_tasks
    from spectral_ft.stages.evaluation import Scorer

    tasks = source_tasks(experiment)
    if not tasks:
        return text, files
    prepare_tasks(experiment, checkpoint, tasks, folder)
    scorer = Scorer(experiment, checkpoint, tasks)
    scorer.score(folder / ORIGINAL, adapter=adapter.folder)
    scorer.score(folder / COMPRESSED, adapter=folder / ADAPTER)
    comparison = compare_runs([folder / COMPRESSED], [folder / ORIGINAL])
    comparison.frame().to_csv(folder / "comparison.csv", index=False)
    text += str(comparison)
    files.append(folder / "comparison.csv")
    if curve:
        points = _curve(scorer, adapter, moments=moments, before=before, folder=folder, origin=origin)
        files += write_frame(folder, CURVE, points)
        if experiment.figures:
            from spectral_ft.reporting.update_table import draw_curve

            draw_curve(folder / "figures" / "curve.png", points, title=str(adapter.folder))
            files.append(folder / "figures" / "curve.png")
    return text, files


def cut(
    adapter: AdapterFiles,
    rule: RankRule,
    weighting: str,
    *,
    moments: Mapping[str, Any] | None,
    base_parameters: int | None,
) -> Compression:
    """Choose the ranks.

    Args:
        adapter: Whose matrices are cut.
        rule: Budget, energy or edge.
        weighting: `none`, `inputs` or `fisher`.
        moments: Of every matrix, for a weighting.
        base_parameters: Of the base, for a percentage.

    Returns:
        The cut.

    Raises:
        CheckpointError: If every update is zero.
    """
    cores: dict[str, Core | None] = {}
    sizes = {}
    with threadpool_limits(1):
        for matrix in adapter.matrices:
            update = _decomposed(matrix)
            core = None if weighting == "none" else _core(update, (moments or {})[matrix.name], weighting, matrix)
            cores[matrix.name] = core
            values = update.values if core is None else core.values
            fixed = matrix.parameters - matrix.rank * sum(matrix.shape)
            sizes[matrix.name] = Sizes(values, sum(matrix.shape), _spikes(update, matrix), fixed)
    if not any(size.values.any() for size in sizes.values()):
        raise CheckpointError(
            f"every update in {adapter.folder} is zero: B is as it was before the first step. Train it first."
        )
    unseen = [name for name, size in sizes.items() if not size.values.any() and cores[name] is not None]
    if unseen:
        log.warning("%d matrices saw no token or no gradient and lose their adapter: %s", len(unseen), unseen[0])
    ranks = chosen_ranks(sizes, rule, base_parameters=base_parameters)
    return Compression(adapter, ranks, cores, weighting, str(rule))


def _check_options(rule: RankRule, weighting: str, curve: bool, checkpoint: Checkpoint | None) -> None:
    if not rule.given:
        raise ConfigError("give a size: budget=params budget.value=N, energy=0.99 or edge=true.")
    if weighting not in get_args(Weighting):
        raise ConfigError(f"weighting={weighting} is unknown: choose one of {', '.join(get_args(Weighting))}.")
    if checkpoint is None and (weighting != "none" or curve):
        option = "curve=true" if curve else f"weighting={weighting}"
        raise ConfigError(f"{option} runs calibration examples through the model: name it with model=, and dataset=.")
    if rule.edge and weighting != "none":
        raise ConfigError(f"edge=true is about the update alone: use weighting=none, not weighting={weighting}.")


def _decomposed(matrix: AdapterMatrix) -> Decomposed:
    return decomposed_update(*matrix.factors(), scaling=matrix.scaling)


def _spikes(update: Decomposed, matrix: AdapterMatrix) -> float | None:
    try:
        return float(np.count_nonzero(update.values > noise_edge(update.values, matrix.shape, rank=matrix.rank)))
    except Undefined:
        return None


def _core(update: Decomposed, sums: Any, weighting: str, matrix: AdapterMatrix) -> Core:
    if weighting == "inputs":
        return weighted_core(update, inputs=Moment(sums.inputs, sums.inputs_trace, matrix.shape[1]))
    # Per token on one side, so that of experts that see few tokens the product does not fall with the square.
    tokens = max(sums.tokens, 1)
    return weighted_core(
        update,
        inputs=Moment(sums.inputs / tokens, sums.inputs_trace / tokens, matrix.shape[1]),
        outputs=Moment(sums.outputs, sums.outputs_trace, matrix.shape[0]),
    )


def _moments(
    experiment: Experiment,
    adapter: AdapterFiles,
    checkpoint: Checkpoint,
    folder: Path,
    weightings: tuple[str, ...],
) -> Mapping[str, Any] | None:
    if not {"inputs", "fisher"} & set(weightings):
        return None
    from spectral_ft.adapters.opening import open_adapter
    from spectral_ft.probe.moments import Directions, update_moments
    from spectral_ft.stages.probe import calibration_batches

    _, batches = calibration_batches(experiment, checkpoint, folder)
    directions = {}
    with threadpool_limits(1):
        for matrix in adapter.matrices:
            update = _decomposed(matrix)
            directions[matrix.name] = Directions(update.left.astype(np.float32), update.right.astype(np.float32))
    model = cast("PeftModel", open_adapter(load_base(experiment, checkpoint), adapter.folder))
    base = model.get_base_model()
    return update_moments(
        model,
        batches,
        directions,
        modules={name: base.get_submodule(name) for name in directions},
        gradients="fisher" in weightings,
    )


def _curve(
    scorer: Any,
    adapter: AdapterFiles,
    *,
    moments: Mapping[str, Any] | None,
    before: int,
    folder: Path,
    origin: Origin | None,
) -> pd.DataFrame:
    rows = [
        {"weighting": weighting, "share": 1.0, "parameters": before, **_point(score)}
        for score in scorer.score(folder / ORIGINAL, adapter=adapter.folder)
        if score.stage == "tuned"
        for weighting in get_args(Weighting)
    ]
    least = min(sum(matrix.shape) for matrix in adapter.matrices)
    for share in SHARES:
        target = int(share * before)
        if target < least:
            log.info("the curve ends before %d parameters, which are less than one rank", target)
            break
        for weighting in get_args(Weighting):
            rule = RankRule(Budget("params", float(target), None), None, False)
            found = cut(adapter, rule, weighting, moments=moments, base_parameters=None)
            place = folder / CURVE / f"{weighting}-{target}"
            found.write(place / ADAPTER, origin)
            rows += [
                {"weighting": weighting, "share": share, "parameters": found.parameters, **_point(score)}
                for score in scorer.score(place, adapter=place / ADAPTER)
                if score.stage == "tuned"
            ]
    return pd.DataFrame(rows)


def _point(score: Any) -> dict[str, Any]:
    names = ("task", "metric", "extractor", "value", "stderr", "n")
    return {name: getattr(score, name) for name in names}


def _kept(values: np.ndarray, rank: int) -> float | None:
    total = float(np.sum(np.square(values)))
    return float(np.sum(np.square(values[:rank]))) / total if total else None


def _origin(adapter: AdapterFiles) -> Origin | None:
    path = adapter.folder / ORIGIN
    return read_json(path, Origin) if path.is_file() else None
