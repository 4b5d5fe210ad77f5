"""The base model, as far as counting needs it."""

from functools import cache
from typing import TYPE_CHECKING

from spectral_ft.experiment import Experiment
from spectral_ft.methods.seam import BaseModel
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.models.kinds import task_type
from spectral_ft.types import MatrixShape

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def base_model(experiment: Experiment, checkpoint: Checkpoint, matrices: tuple[MatrixShape, ...]) -> BaseModel:
    """What a plan is counted on.

    Args:
        experiment: Its components.
        checkpoint: Of the base; its `config.json` is enough.
        matrices: Those that may be adapted.

    Returns:
        The base model; no weight is loaded.
    """
    from spectral_ft.adapters.lora import obstacles
    from spectral_ft.models.blueprints import head_modules

    names = [matrix.name for matrix in matrices]
    model = blueprint(experiment, checkpoint)
    heads = head_modules(model, kind=experiment.model.kind)
    return BaseModel(
        matrices=matrices,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        heads=heads,
        head_parameters=sum(p.numel() for name in heads for p in model.get_submodule(name).parameters()),
        task_type=task_type(experiment.model.kind),
        blueprint=lambda: blueprint(experiment, checkpoint),
        obstacles=cache(lambda whole: obstacles(model, names, whole=whole)),
    )


def blueprint(experiment: Experiment, checkpoint: Checkpoint) -> "PreTrainedModel":
    """The model that `config.json` describes, without weights.

    Args:
        experiment: Its components.
        checkpoint: Of the base.

    Returns:
        A fresh one, on the meta device.
    """
    from spectral_ft.models import blueprints

    source = experiment.model
    return blueprints.blueprint(
        checkpoint.folder, kind=source.kind, labels=source.labels, trust_remote_code=source.trust_remote_code
    )


def load_base(experiment: Experiment, checkpoint: Checkpoint) -> "PreTrainedModel":
    """The base with its weights, frozen.

    Args:
        experiment: Its components.
        checkpoint: Of the base.

    Returns:
        The model, in its precision, on the device where it will run.
    """
    from spectral_ft.models.loading import load_model

    source = experiment.model
    return load_model(
        checkpoint.folder,
        kind=source.kind,
        labels=source.labels,
        head_seed=experiment.seed,
        quantization=experiment.quantization,
        dtype=source.dtype,
        attention=source.attention,
        trust_remote_code=source.trust_remote_code,
    )
