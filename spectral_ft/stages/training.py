"""Plan and data to `adapter/` and `train.json`."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from spectral_ft.errors import DataError
from spectral_ft.experiment import Experiment
from spectral_ft.methods.none import Nothing
from spectral_ft.methods.seam import BaseModel
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.stages.base import load_base
from spectral_ft.stages.examples import tokenised
from spectral_ft.stages.rounds import Reallocation, state_of
from spectral_ft.storage import read_json, write_json
from spectral_ft.types import AllocationPlan, Probe, SpectralReport, TrainOutcome

log = logging.getLogger(__name__)


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
    if context is not None and dataset.max_length > context:
        raise DataError(
            f"dataset.max_length={dataset.max_length} is beyond the context of {experiment.model.label}, which is "
            f"{context} tokens: set dataset.max_length={context} or less."
        )


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
) -> TrainOutcome | None:
    """Tokenise, load the base, adapt it, train.

    Args:
        experiment: Its components.
        checkpoint: The base.
        plan: What each matrix gets.
        base: The model, as it was counted.
        report: With which the policy is asked again.
        probe: What the calibration batches showed; None where nothing asked.
        folder: Of the run.
        log_row: Takes the rows of the training log.

    Returns:
        What it left and what it cost; None where the method trains nothing.
    """
    if isinstance(experiment.method, Nothing):
        return None
    path = folder / "train.json"
    if path.exists():
        return read_json(path, TrainOutcome)
    from spectral_ft.adapters.origin import write_origin
    from spectral_ft.training.checkpoints import last_checkpoint, remove_checkpoints
    from spectral_ft.training.train import optimizer_steps, seed_everything, train

    examples, collate = tokenised(experiment, checkpoint)
    steps = optimizer_steps(experiment.training, len(examples))
    resume = last_checkpoint(folder / "checkpoints")
    stood = state_of(resume) if resume else None
    plan = stood.plan if stood else plan
    model = load_base(experiment, checkpoint)
    seed_everything(experiment.seed)
    trained = experiment.method.adapt(model, plan, base=base, steps=steps, probe=probe)
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
    asked, says = experiment.training.activation_checkpointing, experiment.method.activation_checkpointing
    outcome = train(
        trained,
        examples,
        collate,
        experiment.training,
        activation_checkpointing=says if asked is None else asked,
        multipliers={allocation.name: allocation.lr_multiplier for allocation in plan.adapted},
        possible_multipliers=getattr(experiment.rank_policy, "multipliers", ()) if experiment.method.rounds > 1 else (),
        rounds=rounds,
        seed=experiment.seed,
        folder=folder,
        resume=resume,
        log_row=log_row,
    )
    outcome = replace(outcome, rounds=rounds.finish())
    write_origin(folder / "adapter", model=experiment.model.label, fingerprint=checkpoint.fingerprint, plan=rounds.plan)
    write_json(path, outcome)
    remove_checkpoints(folder)
    log.info(
        "trained %d steps on %d examples in %.0f s (%.0f tokens/s), loss %.3f -> %.3f",
        outcome.steps,
        outcome.examples,
        outcome.seconds,
        outcome.tokens_per_second,
        outcome.first_loss,
        outcome.final_loss,
    )
    return outcome
