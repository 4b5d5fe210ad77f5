"""What a run folder says of its run once the training is over: components, base, adapter and plan as they were."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as record

from spectral_ft.adapters.opening import form_of
from spectral_ft.adapters.origin import Origin, check_origin
from spectral_ft.errors import RunError
from spectral_ft.experiment import Experiment
from spectral_ft.identity import RECORD_FORMAT
from spectral_ft.methods.none import Nothing
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.models.device import BFLOAT16_GPU, Dtype
from spectral_ft.models.quantization import Unquantized
from spectral_ft.models.tensors import check_inside
from spectral_ft.run_folder import STARTED
from spectral_ft.storage import read_json
from spectral_ft.types import AllocationPlan, RunResult


@record(frozen=True, config=ConfigDict(extra="forbid"))
class Recorded:
    """What a run folder says of its run."""

    run_id: str
    format: int
    config: dict[str, Any]
    """Resolved."""
    device: str | None = None
    """On which it was trained; None where the run was cut before it wrote that."""
    compute_capability: str | None = None
    """Of that GPU, such as 7.5; None of a CPU, and of records that do not say."""


def read_record(folder: Path) -> Recorded:
    """Read what a run folder says of its run.

    Args:
        folder: Of the run, finished or cut after its training.

    Returns:
        The record.

    Raises:
        RunError: If it holds no run, one whose training is not finished, or one of another version.
    """
    if not folder.is_dir():
        raise RunError(f"run={folder} does not exist or is no folder.")
    finished, started = folder / "result.json", folder / STARTED
    if finished.is_file():
        result = read_json(finished, RunResult)
        machine = result.machine
        found = Recorded(
            result.run_id,
            result.format,
            result.config,
            str(machine.get("device", "cpu")),
            machine.get("compute_capability"),
        )
    elif started.is_file():
        found = read_json(started, Recorded)
        if not (folder / "train.json").is_file():
            raise RunError(
                f"run {found.run_id} in {folder} has not finished its training (train.json is missing): call its "
                "command again, it goes on where it stopped."
            )
    else:
        raise RunError(f"run={folder} holds no run: neither result.json nor {STARTED} is there.")
    if found.format != RECORD_FORMAT:
        raise RunError(f"{folder} has record format {found.format}, this version reads {RECORD_FORMAT}.")
    return found


@dataclass(frozen=True)
class RecordedRun:
    """A run with its components, each part read when it is asked for."""

    experiment: Experiment
    """Built from the record."""
    recorded: Recorded
    folder: Path

    @property
    def method(self) -> str:
        """The method's name."""
        return self.experiment.method.name

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The base."""
        return self.experiment.model.locate()

    @cached_property
    def form(self) -> str | None:
        """Of what was trained, as `opening.form_of` calls it; None where nothing was."""
        if isinstance(self.experiment.method, Nothing):
            return None
        if self.adapter.is_dir():
            check_inside(self.adapter, self.adapter.iterdir())
        return form_of(self.adapter)

    @property
    def adapter(self) -> Path:
        """Folder of what was trained."""
        return self.folder / "adapter"

    def checked_origin(self) -> Origin | None:
        """What the adapter was trained on, which must be this base.

        Returns:
            Its origin; None where it does not say.

        Raises:
            CheckpointError: If it was trained on other weights.
        """
        return check_origin(self.adapter, model=self.experiment.model.label, fingerprint=self.checkpoint.fingerprint)

    @cached_property
    def plan(self) -> AllocationPlan:
        """As it was when the training ended: rounds change it."""
        origin = None if self.form is None else self.checked_origin()
        return read_json(self.folder / "plan.json", AllocationPlan) if origin is None else origin.plan

    @property
    def as_trained(self) -> Experiment:
        """The components, in the precision that `auto` meant where it was trained."""
        source, device = self.experiment.model, self.recorded.device
        if source.dtype != "auto" or device is None:
            return self.experiment
        return replace(self.experiment, model=replace(source, dtype=self._dtype_on(device)))

    def _dtype_on(self, device: str) -> Dtype:
        if device == "cpu":
            return "float32"
        capability = self.recorded.compute_capability
        return "bfloat16" if capability is None or float(capability) >= BFLOAT16_GPU else "float16"

    @property
    def unquantized(self) -> Experiment:
        """The same on a base that is not packed on the way in."""
        return replace(self.as_trained, quantization=Unquantized())

    @property
    def is_packed(self) -> bool:
        """Whether the base was in 4 or 8 bits while it was trained."""
        return self.experiment.quantization.bits is not None or "quantization_config" in self.checkpoint.config
