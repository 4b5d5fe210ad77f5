"""Plan and data to `adapter/` and `train.json`."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spectral_ft.errors import DataError
from spectral_ft.experiment import Experiment
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.storage import read_json, write_json
from spectral_ft.types import AllocationPlan, TrainOutcome

log = logging.getLogger(__name__)


def check_data(experiment: Experiment, checkpoint: Checkpoint) -> None:
    """What can be said of the training data before anything heavy loads.

    Args:
        experiment: Its components.
        checkpoint: The base.

    Raises:
        DataError: If local files are missing, or `dataset.max_length` is beyond the model's context.
    """
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
    folder: Path,
    log_row: Callable[[dict[str, Any]], None],
) -> TrainOutcome:
    """Tokenise, load the base, adapt it, train.

    Args:
        experiment: Its components.
        checkpoint: The base.
        plan: What each matrix gets.
        folder: Of the run.
        log_row: Takes the rows of the training log.

    Returns:
        What it left and what it cost.
    """
    path = folder / "train.json"
    if path.exists():
        return read_json(path, TrainOutcome)
    from spectral_ft.data.tokenised import PaddedBatch, tokenise
    from spectral_ft.models.loading import load_model, load_tokenizer
    from spectral_ft.training.train import remove_checkpoints, seed_everything, train

    if asked := [allocation for allocation in plan.adapted if allocation.lr_multiplier != 1]:
        log.warning(
            "the plan asks for other learning rates on %d matrices (%s: x%g), which training does not apply yet: all "
            "have training.learning_rate",
            len(asked),
            asked[0].name,
            asked[0].lr_multiplier,
        )
    dataset, trust = experiment.dataset, experiment.model.trust_remote_code
    tokenizer = load_tokenizer(checkpoint.folder, trust_remote_code=trust)
    examples = tokenise(
        dataset.examples(),
        tokenizer,
        max_length=dataset.max_length,
        too_long=dataset.too_long,
        train_on_inputs=dataset.train_on_inputs,
    )
    base = load_model(
        checkpoint.folder,
        quantization=experiment.quantization,
        dtype=experiment.model.dtype,
        trust_remote_code=trust,
    )
    seed_everything(experiment.seed)
    model = experiment.method.adapt(base, plan)
    outcome = train(
        model,
        examples,
        PaddedBatch(int(tokenizer.pad_token_id)),
        experiment.training,
        seed=experiment.seed,
        folder=folder,
        save=lambda into: experiment.method.save(model, into),
        log_row=log_row,
    )
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
