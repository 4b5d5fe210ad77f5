"""Training examples and base model to `probe.safetensors`; runs only where something asks for it."""

import logging
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_ft.allocation.explained_variance import ExplainedVariance
from spectral_ft.errors import ConfigError, OutOfMemory
from spectral_ft.experiment import Experiment, PlanParts, columns_read
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.stages.base import HeldBase
from spectral_ft.stages.examples import tokenised
from spectral_ft.storage import stored
from spectral_ft.types import PROBE_COLUMNS, MatrixSpectrum, Probe, SpectralReport

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)
WHY_NOT = "the probe did not look at this matrix"


def probe(
    experiment: Experiment,
    checkpoint: Checkpoint,
    report: SpectralReport,
    *,
    parts: Sequence[PlanParts],
    folder: Path,
    held: HeldBase,
) -> Probe | None:
    """Look at calibration batches.

    Args:
        experiment: Its components.
        checkpoint: Of the base.
        report: With the matrices.
        parts: Of the plans that are to be made.
        folder: Of the run; a probe that lies there is read.
        held: Lends the base.

    Returns:
        What they showed; None where nothing asks.
    """
    wanted = _asked(parts)
    if not any(wanted):
        return None

    def complete(found: Probe) -> bool:
        known = {column for own in found.columns.values() for column in own}
        has = ("gradient" in known, bool(found.sketches), "input_rank" in known)
        return all(there or not asked for there, asked in zip(has, wanted, strict=True))

    def make() -> Probe:
        began = time.perf_counter()
        ids, batches = calibration_batches(experiment, checkpoint, folder)
        with _memory_explained(experiment):
            columns, found = _measured(experiment, held.model, report, batches, wanted)
        log.info("probed %d matrices on %d batches in %.1f s", len(columns), len(batches), time.perf_counter() - began)
        return replace(found, ids=ids, columns=columns)

    return stored(folder / "probe.safetensors", Probe, make, complete=complete)


def _measured(
    experiment: Experiment,
    model: "PreTrainedModel",
    report: SpectralReport,
    batches: list[dict[str, Any]],
    asked: tuple[bool, bool, list[ExplainedVariance]],
) -> tuple[dict[str, dict[str, float]], Probe]:
    # Columns of every matrix, and a probe with all else.
    from spectral_ft.probe.gradients import probe_gradients
    from spectral_ft.probe.inputs import principal_inputs
    from spectral_ft.probe.modules import watchable

    (norms, sketches, variances), settings = asked, experiment.probe
    names = [spectrum.matrix.name for spectrum in report.matrices]
    columns: dict[str, dict[str, float]] = {name: {} for name in names}
    found = Probe(ids=(), columns={})
    if norms or sketches:
        gradients = probe_gradients(
            model,
            batches,
            watchable(model, names),
            norms=norms,
            sketch_dim=settings.sketch_dim if sketches else None,
            seed=settings.seed,
        )
        for name, value in gradients.norms.items():
            columns[name]["gradient"] = value
        found = replace(found, sketches=gradients.sketches, half_sketches=gradients.half_sketches)
    for policy in variances:
        components = principal_inputs(
            model,
            batches,
            watchable(model, policy.names(report)),
            rank=policy.rank,
            rho=policy.rho,
            tau=policy.tau,
            whiten=policy.whiten,
        )
        for name, directions in components.items():
            columns[name]["input_rank"] = float(len(directions))
        found = replace(found, components=components)
    return columns, found


@contextmanager
def _memory_explained(experiment: Experiment) -> Iterator[None]:
    from spectral_ft.models.device import compute_device, is_out_of_memory

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        size, length = experiment.probe.batch_size, experiment.dataset.max_length
        raise OutOfMemory(
            f"{compute_device()} ran out of memory in the probe, with probe.batch_size={size} examples of up to "
            f"{length} tokens: lower probe.batch_size (and raise probe.batches to look at as many examples), lower "
            f"dataset.max_length, or set quantization=nf4. ({str(error).splitlines()[0]})"
        ) from error


def is_asked(parts: Sequence[PlanParts]) -> bool:
    """Whether plans need a probe.

    Args:
        parts: Of the plans.

    Returns:
        True if one of them reads what it shows.
    """
    return any(_asked(parts))


def check_enough(experiment: Experiment, examples: int) -> None:
    """Check that there are as many examples as the probe takes.

    Args:
        experiment: Its components.
        examples: Of the training set, as far as they are trained on.

    Raises:
        ConfigError: If there are fewer.
    """
    settings = experiment.probe
    wanted = settings.batches * settings.batch_size
    if examples < wanted:
        raise ConfigError(
            f"probe.batches={settings.batches} of probe.batch_size={settings.batch_size} are {wanted} examples, and "
            f"dataset={experiment.dataset.name} has {examples}: lower one of them."
        )


def joined(report: SpectralReport, found: Probe | None) -> SpectralReport:
    """A report with the probe's columns.

    Args:
        report: Of the spectra, or of shapes alone.
        found: What the batches showed; None adds nothing.

    Returns:
        The report; a matrix that was not looked at has null there.
    """
    if found is None:
        return report
    present = [column for column in PROBE_COLUMNS if any(column in own for own in found.columns.values())]

    def with_columns(spectrum: MatrixSpectrum) -> MatrixSpectrum:
        own = found.columns.get(spectrum.matrix.name, {})
        return replace(
            spectrum,
            columns=spectrum.columns | {column: own.get(column) for column in present},
            reasons=spectrum.reasons | {column: WHY_NOT for column in present if column not in own},
        )

    return replace(report, matrices=tuple(with_columns(spectrum) for spectrum in report.matrices))


def _asked(parts: Sequence[PlanParts]) -> tuple[bool, bool, list[ExplainedVariance]]:
    # Gradient norms, sketches, and the policies that want directions of inputs.
    read = columns_read(parts)
    policies = [getattr(p.rank_policy, "of", p.rank_policy) for p in parts]
    variances = [policy for policy in policies if isinstance(policy, ExplainedVariance)]
    if "input_rank" in read and not variances:
        raise ConfigError(
            "the column input_rank is made for rank_policy=explained_variance, which says how many directions count: "
            "use that policy, or another column."
        )
    if any(policy != variances[0] for policy in variances):
        raise ConfigError(
            "rank_policy=explained_variance is asked for twice with different options (budget.of, planning.against): "
            "one probe serves both, so give them the same ones."
        )
    return "gradient" in read, any(p.grouping.reads_sketches for p in parts), variances[:1]


def calibration_batches(
    experiment: Experiment, checkpoint: Checkpoint, folder: Path
) -> tuple[tuple[int, ...], list[dict[str, Any]]]:
    """A few batches of training examples.

    Args:
        experiment: `probe` says how many, `dataset` of what.
        checkpoint: Of the base, whose tokenizer is used.
        folder: Of the run.

    Returns:
        The numbers of the examples, and the batches.

    Raises:
        ConfigError: If there are fewer examples than are asked for.
    """
    data = tokenised(experiment, checkpoint, folder)
    examples, collate = data.training, data.collate
    settings = experiment.probe
    wanted = settings.batches * settings.batch_size
    check_enough(experiment, len(examples))
    ids = random.Random(settings.seed).sample(range(len(examples)), wanted)
    size = settings.batch_size
    return tuple(ids), [collate([examples[i] for i in ids[start : start + size]]) for start in range(0, wanted, size)]
