"""The base model: as far as counting needs it, and with its weights."""

import gc
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from spectral_ft.experiment import Experiment
from spectral_ft.machine import free_memory
from spectral_ft.methods.seam import BaseModel
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.models.kinds import task_type
from spectral_ft.types import MatrixShape

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


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


class HeldBase:
    """The base model of a run: loaded when a stage first asks for it, and lent to one stage after another.

    Never are two bases alive: one whose weights a stage has changed is let go before it is loaded again.
    """

    def __init__(self, experiment: Experiment, checkpoint: Checkpoint) -> None:
        self._experiment = experiment
        self._checkpoint = checkpoint
        self._model: PreTrainedModel | None = None
        self._used = False  # a stage has left caches behind

    @property
    def model(self) -> "PreTrainedModel":
        """The base, to be asked and not to be changed."""
        import torch

        if self._used or torch.cuda.is_available():  # of a GPU the caches of each stage count
            self._used = False
            _free_unused()
        if self._model is None:
            self._model = load_base(self._experiment, self._checkpoint)
        return self._model

    @contextmanager
    def lent(self) -> Iterator["PreTrainedModel"]:
        """The base for a stage that adapts it in place.

        Yields:
            The model. After the block it is what it was before; if its weights are not, it is loaded again when it is
            next asked for.
        """
        from spectral_ft.adapters.wearing import as_before

        before = _weights(self.model)
        changed: list[str] = []
        try:
            with as_before(self.model):
                try:
                    yield self.model
                finally:
                    changed = _changed(self.model, before)
        finally:
            self._used = True
            if changed:
                log.info(
                    "method=%s has changed %d of the %d weights of the base: what follows loads it again",
                    self._experiment.method.name,
                    len(changed),
                    len(before),
                )
                self._model = None

    def release(self) -> None:
        """Let the base go, and give its memory back."""
        self._model = None
        _free_unused()


def _free_unused() -> None:
    import torch

    gc.collect()  # the Trainer and PEFT leave circles behind, which hold whole models
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _weights(model: "PreTrainedModel") -> dict[str, tuple[int, int, int]]:
    # What changes of a tensor when somebody writes into it, or exchanges it.
    return {name: (id(tensor), tensor._version, tensor.data_ptr()) for name, tensor in model.named_parameters()}


def _changed(model: "PreTrainedModel", before: Mapping[str, tuple[int, int, int]]) -> list[str]:
    # Parameters are known by their identity: adapters give them other names.
    now = {id(tensor): tensor for tensor in model.parameters()}
    return [
        name
        for name, (known, version, place) in before.items()
        if known not in now or (now[known]._version, now[known].data_ptr()) != (version, place)
    ]


def load_base(experiment: Experiment, checkpoint: Checkpoint) -> "PreTrainedModel":
    """The base with its weights, frozen.

    Args:
        experiment: Its components.
        checkpoint: Of the base.

    Returns:
        The model, in its precision, on the device where it will run; a packed one on a CPU is dequantized once, unless
        `quantization.on_cpu` or the free memory says otherwise.
    """
    from spectral_ft.models.device import compute_device
    from spectral_ft.models.loading import load_model

    source, device = experiment.model, compute_device()
    free = free_memory(device)
    model = load_model(
        checkpoint.folder,
        kind=source.kind,
        labels=source.labels,
        head_seed=experiment.seed,
        quantization=experiment.quantization,
        dtype=source.dtype,
        attention=source.attention,
        trust_remote_code=source.trust_remote_code,
    )
    if device.type == "cpu":
        _dequantize_if_it_fits(model, experiment, free)
    return model


def _dequantize_if_it_fits(model: "PreTrainedModel", experiment: Experiment, free: int) -> None:
    from spectral_ft.models.dequantized import dequantize_once, dequantized_bytes, is_packed

    if not is_packed(model):
        return
    asked = experiment.quantization.on_cpu
    tokens = experiment.training.micro_batch_size * experiment.dataset.max_length
    needed = dequantized_bytes(model, tokens=tokens)
    once = needed <= free / 2 if asked is None else asked == "dequantize_once"
    log.info(
        "quantization.on_cpu=%s%s: a dequantized base and its training take about %.1f GiB, and %.1f GiB are free",
        "dequantize_once" if once else "packed",
        "" if asked else " (chosen)",
        needed / 2**30,
        free / 2**30,
    )
    if once:
        dequantize_once(model)
