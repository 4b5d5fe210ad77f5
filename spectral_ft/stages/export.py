"""A finished run as what other tools read, and `export.json`, which says how far each form is from the adapter.

A merged form is the base in its own precision plus what was trained, also where the run was trained on a packed
base: into 4 bits nothing can be merged without rounding it away. So there are two differences: from the adapter on
the same unpacked base, which is rounding, and from the adapter on the packed base on which it was trained and
scored, which is what leaving the packing behind changes.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as record

from spectral_ft.adapters import merging
from spectral_ft.adapters.merging import Difference
from spectral_ft.adapters.opening import CONFIG, open_adapter
from spectral_ft.adapters.origin import FILE as ORIGIN
from spectral_ft.errors import CheckpointError, PlanError, RunError
from spectral_ft.experiment import Experiment
from spectral_ft.machine import package_versions
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.spectral.scan import write_unfrozen
from spectral_ft.stages.base import load_base
from spectral_ft.stages.recorded_run import Recorded, RecordedRun
from spectral_ft.stages.spectrum import report_of_shapes
from spectral_ft.storage import read_json, replacing, write_json, write_text

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

FORMS: Mapping[str, str] = {
    "merged": "merged",
    "peft": "peft",
    "pth": "model_state_dict.pth",
    "axolotl": "unfrozen_parameters.yaml",
}
"""Form to the file or folder that it becomes."""

REPORT = "export.json"
STRICT = ConfigDict(extra="forbid")


@record(frozen=True, config=STRICT)
class Exported:
    """One form of a run."""

    path: str
    """File or folder, relative to the report's."""
    bytes: int
    sha256: dict[str, str]
    """File, relative to the report's folder, to its digest."""
    dtype: str | None = None
    """Of the weights; None for a form that holds no model."""
    difference: Difference | None = None
    """From the adapter on the same unpacked base."""
    difference_from_packed: Difference | None = None
    """From the adapter on the packed base of the training; None where that was not packed."""


@record(frozen=True, config=STRICT)
class Export:
    """All forms in a folder; the content of `export.json`."""

    run_id: str
    model: str
    fingerprint: str
    """Of the base's weight files."""
    method: str
    quantization: str
    """Of the base while it was trained."""
    forms: dict[str, Exported]
    versions: dict[str, str]


def export(experiment: Experiment, recorded: Recorded, folder: Path, *, forms: Sequence[str], out: Path) -> Export:
    """Write forms of a run, one model in memory at a time.

    Args:
        experiment: Its components, built from the record.
        recorded: What the run folder says of its run.
        folder: Of the run.
        forms: Of `FORMS`.
        out: Where to; what is there of the same run stays.

    Returns:
        What is there now, which is also `export.json`.

    Raises:
        PlanError: If the run has no such form.
        RunError: If `out` holds another run's forms.
    """
    run = RecordedRun(experiment, recorded, folder)
    if wrong := [f"to={form}: {reason}" for form in forms if (reason := _REFUSALS[form](run))]:
        raise PlanError("\n".join(f"run {recorded.run_id} (method={run.method}) cannot be exported {s}" for s in wrong))
    there = _earlier(out, recorded.run_id)
    fresh = _write_models(run, forms, out) if {"merged", "pth"} & set(forms) else {}
    for form, write in (("peft", _write_adapter), ("axolotl", _write_list)):
        if form in forms:
            write(run, out / FORMS[form])
            fresh[form] = _described(out, form)
    report = Export(
        run_id=recorded.run_id,
        model=experiment.model.label,
        fingerprint=run.checkpoint.fingerprint,
        method=run.method,
        quantization=experiment.quantization.label,
        forms={form: {**there, **fresh}[form] for form in FORMS if form in there or form in fresh},
        versions=package_versions(),
    )
    write_json(out / REPORT, report)
    return report


def _write_models(run: RecordedRun, forms: Sequence[str], out: Path) -> dict[str, Exported]:
    import torch

    from spectral_ft.models.loading import load_tokenizer

    run.checked_origin()
    adapted = open_adapter(merging.unpack(load_base(run.unquantized, run.checkpoint)), run.adapter)
    expected = merging.logits(adapted)
    model = merging.merge(adapted)
    del adapted
    merged = merging.logits(model)
    found, dtype = {"pth": _checked(expected, merged, model)}, str(model.dtype).removeprefix("torch.")
    if "pth" in forms:
        with replacing(out / FORMS["pth"]) as part:
            torch.save({name: tensor.cpu() for name, tensor in model.state_dict().items()}, part)
    if "merged" in forms:
        source = run.experiment.model
        tokenizer = load_tokenizer(run.checkpoint.folder, kind=source.kind, trust_remote_code=source.trust_remote_code)
        with replacing(out / FORMS["merged"]) as part:
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            del model
            reopened = load_base(run.unquantized, Checkpoint(part))
            found["merged"] = _checked(expected, merging.logits(reopened), reopened)
            del reopened
    del expected
    packed = None
    if run.is_packed:
        packed = merging.difference(
            merging.logits(open_adapter(load_base(run.as_trained, run.checkpoint), run.adapter)), merged
        )
    return {
        form: replace(_described(out, form), dtype=dtype, difference=apart, difference_from_packed=packed)
        for form, apart in found.items()
        if form in forms
    }


def _checked(expected: "torch.Tensor", said: "torch.Tensor", model: "PreTrainedModel") -> Difference:
    import torch

    apart, bound = merging.difference(expected, said), torch.finfo(model.dtype).eps ** 0.5
    if apart.relative > bound:
        raise CheckpointError(
            f"the merged {type(model).__name__} is not what the adapter makes of its base: the logits differ by "
            f"{apart.relative:.1e} of their norm, and rounding to {model.dtype} explains {bound:.1e} at most. Use the "
            "adapter as it is (to=peft)."
        )
    return apart


def _write_adapter(run: RecordedRun, path: Path) -> None:
    run.checked_origin()
    source = run.experiment.model
    with replacing(path) as part:
        part.mkdir()
        for file in (CONFIG, "adapter_model.safetensors", ORIGIN):
            shutil.copyfile(run.adapter / file, part / file)
        if source.path is None:  # where the hub's copy lies on this machine means nothing on another
            config = json.loads((part / CONFIG).read_text())
            config |= {"base_model_name_or_path": source.id, "revision": source.revision}
            write_text(part / CONFIG, json.dumps(config, indent=2) + "\n")


def _write_list(run: RecordedRun, path: Path) -> None:
    settings = run.experiment.spectrum
    checkpoint = replace(run.checkpoint, dequantize=settings.dequantize)
    report = report_of_shapes(run.experiment.model.label, checkpoint, settings)
    write_unfrozen(path, {allocation.name for allocation in run.plan.adapted}, report, embeddings=False)


def _described(out: Path, form: str) -> Exported:
    path = out / FORMS[form]
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    digests = {}
    for file in files:
        with file.open("rb") as content:
            digests[str(file.relative_to(out))] = hashlib.file_digest(content, "sha256").hexdigest()
    return Exported(FORMS[form], sum(file.stat().st_size for file in files), digests)


def _earlier(out: Path, run_id: str) -> dict[str, Exported]:
    if not (out / REPORT).is_file():
        return {}
    earlier = read_json(out / REPORT, Export)
    if earlier.run_id != run_id:
        raise RunError(
            f"{out} holds forms of run {earlier.run_id}, and this is run {run_id}: give another out=DIR, or remove it."
        )
    return {form: exported for form, exported in earlier.forms.items() if (out / exported.path).exists()}


def _why_not_merged(run: RecordedRun) -> str | None:
    return _NOTHING if run.form is None else merging.why_not_mergeable(run.form)


def _why_no_adapter(run: RecordedRun) -> str | None:
    return _NOTHING if run.form is None else _NO_PEFT.get(run.form)


def _why_no_list(run: RecordedRun) -> str | None:
    return None if run.plan.adapted else "its plan adapts no single matrices, so there is no list of them."


_NOTHING = "it trained nothing, so that there is only the base."
_NO_PEFT = {
    "TENSORS": "what was trained is whole weights, which is no adapter. Use to=merged or to=pth, or "
    "`python -m spectral_ft.extract tuned=DIR energy=0.99` for the nearest adapter.",
    "BOTTLENECK": "PEFT has no bottleneck adapters, so that no other tool could open them.",
}
_REFUSALS: Mapping[str, Callable[[RecordedRun], str | None]] = {
    "merged": _why_not_merged,
    "pth": _why_not_merged,
    "peft": _why_no_adapter,
    "axolotl": _why_no_list,
}
