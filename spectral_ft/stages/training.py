"""Plan and data to `adapter/` and `train.json`."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_ft.errors import CheckpointError, DataError, OutOfMemory
from spectral_ft.experiment import Experiment, Scheduled, all_parts
from spectral_ft.fingerprint import path_fingerprint, text_fingerprint
from spectral_ft.machine import git_commit, package_versions
from spectral_ft.methods.none import Nothing
from spectral_ft.methods.seam import BaseModel
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.processes import first_process_first, is_first, process_count
from spectral_ft.stages.base import HeldBase
from spectral_ft.stages.examples import Tokenised, tokenised
from spectral_ft.stages.losses import HeldOutLosses, rows_at_a_time
from spectral_ft.stages.planning import estimated_memory
from spectral_ft.stages.probe import check_enough, is_asked
from spectral_ft.stages.rounds import Reallocation, state_of
from spectral_ft.storage import check_folder, enter, read_json, write_json
from spectral_ft.tracking.json_lines import LOG, JsonLines
from spectral_ft.types import AllocationPlan, Probe, SpectralReport, TrainOutcome

if TYPE_CHECKING:
    from spectral_ft.training.checkpoints import Origin

log = logging.getLogger(__name__)
COMPUTING = ("spectral_ft", "torch", "transformers", "peft", "accelerate", "bitsandbytes")
"""Packages whose versions a checkpoint must share with the run that goes on from it."""
PACKAGE = Path(__file__).parents[1]
SOURCES = ("adapters", "allocation", "data", "methods", "models", "probe", "spectral", "stages", "training", "types")
"""Rooms of this package that a checkpoint must share too; what scores, reports and composes does not train."""


def check_data(experiment: Experiment, checkpoint: Checkpoint) -> None:
    """What can be said of the training data before anything heavy loads.

    Args:
        experiment: Its components.
        checkpoint: The base.

    Raises:
        DataError: If local files are missing, or `dataset.max_length` is beyond the model's context.
    """
    if isinstance(experiment.method, Nothing):
        return
    dataset, context = experiment.dataset, checkpoint.context_length
    dataset.check_source()
    experiment.general_text.check_source()
    experiment.training.accumulation(process_count())
    if context is not None and dataset.max_length > context:
        raise DataError(
            f"dataset.max_length={dataset.max_length} is beyond the context of {experiment.model.label}, which is "
            f"{context} tokens: set dataset.max_length={context} or less."
        )


def check_examples(experiment: Experiment, checkpoint: Checkpoint, folder: Path) -> None:
    """Tokenise the examples and count them, before weights are downloaded or analysed.

    Args:
        experiment: Its components.
        checkpoint: The base; its weights are not read.
        folder: Of the run, where it says which rows are test items.

    Raises:
        ConfigError: If there are too few examples for the probe or for a step, or too few steps for the method.
        DataError: If an example cannot be tokenised.
    """
    if isinstance(experiment.method, Nothing) or (folder / "train.json").exists():
        return
    rows = tokenised(experiment, checkpoint, folder)
    _steps(experiment, rows)
    if is_asked(all_parts(experiment.parts)):
        check_enough(experiment, len(rows.training))


def train_adapter(
    experiment: Experiment,
    checkpoint: Checkpoint,
    plan: AllocationPlan,
    *,
    base: BaseModel,
    report: SpectralReport,
    probe: Probe | None,
    folder: Path,
    log_row: Callable[[dict[str, Any]], None],
    held: HeldBase | None = None,
) -> TrainOutcome | None:
    """Tokenise, borrow the base, adapt it, train.

    Args:
        experiment: Its components.
        checkpoint: The base.
        plan: What each matrix gets.
        base: The model, as it was counted.
        report: With which the policy is asked again.
        probe: What the calibration batches showed; None where nothing asked.
        folder: Of the run.
        log_row: Takes the rows of the training log.
        held: Lends the base, which is afterwards what it was; None loads one for the training alone.

    Returns:
        What it left and what it cost; None where the method trains nothing.
    """
    if isinstance(experiment.method, Nothing):
        return None
    from spectral_ft.adapters.origin import TRAIN_AGAIN, write_origin
    from spectral_ft.training.checkpoints import check_base, last_checkpoint, remove_checkpoints

    path = folder / "train.json"
    if path.exists():
        if is_first():
            remove_checkpoints(folder)  # there, if the run was cut after it had written its record
        check_folder(folder / "adapter", way_out=TRAIN_AGAIN)
        return read_json(
            path, TrainOutcome, way_out="Put a copy of it back, or remove it: the same command trains again."
        )
    from spectral_ft.models.dequantized import on_cpu
    from spectral_ft.models.device import autocast_dtype, compute_device
    from spectral_ft.training.step_record import StepRecord
    from spectral_ft.training.train import seed_everything, train

    settings = experiment.training
    with first_process_first():
        rows = tokenised(experiment, checkpoint, folder)
        steps = _steps(experiment, rows)
        if steps <= settings.warmup_steps:
            told = "training.warmup_steps=%d, and there are %d steps: training.learning_rate=%g is never reached"
            log.warning(told, settings.warmup_steps, steps, settings.learning_rate)
        origin = _origin(experiment, plan)
        resume = last_checkpoint(folder / "checkpoints", origin)
        if resume and is_first():
            JsonLines(folder / LOG).restore(StepRecord(resume).rows)
    stood = state_of(resume) if resume else None
    plan = stood.plan if stood else plan
    lender = held or HeldBase(experiment, checkpoint)
    with _memory_explained(experiment, plan, base, probe), lender.lent() as model:
        origin = replace(origin, on_cpu=on_cpu(model))
        check_base(resume, origin)
        _check_forward(experiment, model, rows)
        together = rows_at_a_time(
            model, length=experiment.dataset.max_length, micro_batch_size=settings.micro_batch_size
        )
        mixed = autocast_dtype(experiment.model.dtype, compute_device())
        losses = HeldOutLosses(rows, batch_size=together, divided=not settings.sharded, mixed=mixed)
        before = losses.before(model, folder)
        seed_everything(experiment.seed)
        trained = experiment.method.adapt(model, plan, base=base, steps=steps, probe=probe)
        collate, sampler = _batching(experiment, rows, trained.model)
        rounds = Reallocation(
            parts=experiment.parts,
            base=base,
            report=report,
            probe=probe,
            weights=replace(checkpoint, dequantize=experiment.spectrum.dequantize).block_matrices,
            how=experiment.spectrum.analysis,
            steps=steps,
            plan=plan,
            model=trained.model,
            rounds=list(stood.rounds) if stood else [],
        )
        asked, says = settings.activation_checkpointing, experiment.method.activation_checkpointing
        outcome = train(
            trained,
            rows.training,
            collate,
            settings,
            activation_checkpointing=says if asked is None else asked,
            multipliers={allocation.name: allocation.lr_multiplier for allocation in plan.adapted},
            possible_multipliers=getattr(experiment.rank_policy, "multipliers", ())
            if experiment.method.rounds > 1
            else (),
            rounds=rounds,
            seed=experiment.seed,
            folder=folder,
            origin=origin,
            resume=resume,
            log_row=log_row,
            sampler=sampler,
            named=rows.named,
            bf16=str(mixed) == "torch.bfloat16",
            fp16=str(mixed) == "torch.float16",
            validation_loss=(lambda: losses.of(trained.model, "validation").mean) if losses.has_validation else None,
        )
        changes = losses.changes(before, trained.model)
        measured = rounds.finish() if is_first() else ()
    outcome = replace(
        outcome,
        rounds=measured,
        validation_loss=changes.get("validation"),
        general_loss=changes.get("general"),
    )
    if is_first():
        write_origin(
            folder / "adapter", model=experiment.model.label, fingerprint=checkpoint.fingerprint, plan=rounds.plan
        )
        enter(folder, LOG)
        write_json(path, outcome, home=folder)
        remove_checkpoints(folder)
    _tell(outcome)
    return outcome


def _steps(experiment: Experiment, rows: Tokenised) -> int:
    # How many optimizer steps there are, if the examples and the method allow them.
    from spectral_ft.training.arguments import check_amount, optimizer_steps

    settings = experiment.training
    check_amount(settings, examples=len(rows.training), any_held_out=rows.validation is not None)
    steps = optimizer_steps(settings, len(rows.training))
    if isinstance(experiment.method, Scheduled):
        experiment.method.check_steps(steps)
    return steps


def _origin(experiment: Experiment, plan: AllocationPlan) -> "Origin":
    from spectral_ft.training.checkpoints import Origin

    return Origin(
        run_id=experiment.run_id,
        plan=text_fingerprint(repr(plan)),
        versions={name: version for name, version in package_versions().items() if name in COMPUTING},
        code=code_fingerprint(),
        commit=git_commit(),
        processes=process_count(),
    )


def code_fingerprint() -> str:
    """What the code is that trains, whatever its version says.

    Returns:
        Digest of the sources that take part in a training.
    """
    return text_fingerprint(" ".join(path_fingerprint(PACKAGE / room, suffixes=(".py",)) for room in SOURCES))


def _batching(experiment: Experiment, rows: Tokenised, model: Any) -> tuple[Any, Any]:
    # How examples become batches, and in which order they come.
    from spectral_ft.data.collation import PackedBatch
    from spectral_ft.data.sampling import Filled, LengthGroupedSampler, RandomOrder
    from spectral_ft.models.packing import check_boundaries

    settings, collate = experiment.training, rows.collate
    order: RandomOrder | LengthGroupedSampler = RandomOrder(len(rows.training), seed=experiment.seed)
    if settings.batching == "length":
        lengths = [len(row["input_ids"]) for row in rows.training.rows]
        order = LengthGroupedSampler(lengths, batch_size=settings.batch_size, seed=experiment.seed)
    if settings.batching == "packed":
        check_boundaries(model)
        collate = PackedBatch()
    if process_count() > 1 and experiment.model.kind == "causal_lm":  # the others' loss is a mean over a micro batch
        return collate, Filled(order, multiple=settings.micro_batch_size * process_count())
    return collate, order


def _check_forward(experiment: Experiment, model: Any, rows: Tokenised) -> None:
    # A model whose config.json contradicts itself can load all the same; it fails here, before anything is trained.
    import torch

    from spectral_ft.models.device import is_out_of_memory

    batch = {name: value.to(model.device) for name, value in rows.collate([rows.training[0]]).items()}
    try:
        with torch.no_grad():
            model(**batch)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"the forward pass of {experiment.model.label} fails in transformers, before anything is adapted "
            f"({str(error).splitlines()[0]}): the sizes in its config.json do not fit together. Correct them, or take "
            "another model."
        ) from error


@contextmanager
def _memory_explained(
    experiment: Experiment, plan: AllocationPlan, base: BaseModel, probe: Probe | None
) -> Iterator[None]:
    from spectral_ft.models.device import is_out_of_memory

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        parts = estimated_memory(experiment, plan, base, probe) or {}
        gib = {part: f"{part} {size / 2**30:.1f}" for part, size in parts.items()}
        batch, length = experiment.training.micro_batch_size, experiment.dataset.max_length
        raise OutOfMemory(
            f"the device ran out of memory with micro batches of {batch} x {length} tokens; the plan was estimated at "
            f"{sum(parts.values()) / 2**30:.1f} GiB ({', '.join(gib.values())}): lower training.micro_batch_size or "
            "dataset.max_length, set training.activation_checkpointing=true, or quantization=nf4. The same command "
            f"goes on from the last checkpoint where the batch stays the same. ({str(error).splitlines()[0]})"
        ) from error


def _tell(outcome: TrainOutcome) -> None:
    log.info(
        "trained %d steps on %d examples in %.0f s (%.0f tokens/s), loss %.3f -> %.3f",
        outcome.steps,
        outcome.examples,
        outcome.seconds,
        outcome.tokens_per_second,
        outcome.first_loss,
        outcome.final_loss,
    )
    for name, loss in (("held-out examples", outcome.validation_loss), ("general text", outcome.general_loss)):
        if loss is not None:
            log.info("loss on %s: %.3f -> %.3f", name, loss.before, loss.after)
