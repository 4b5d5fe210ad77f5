"""Which components go together, and a sentence for each pair that does not.

Source of the legal compositions: the methods themselves (`methods/seam.py`, `Takes`); docs/methods.md has them as a
table.
"""

from collections.abc import Iterator
from typing import Any

from spectral_ft.allocation.explained_variance import ExplainedVariance
from spectral_ft.allocation.grouping import Ungrouped
from spectral_ft.allocation.none import NoPolicy
from spectral_ft.data.general_text import NoText
from spectral_ft.errors import ConfigError
from spectral_ft.experiment import Experiment, PlanParts
from spectral_ft.methods.eva import Eva
from spectral_ft.methods.none import Nothing
from spectral_ft.processes import process_count, wrapped_by
from spectral_ft.spectral.metrics import COLUMNS
from spectral_ft.types import PROBE_COLUMNS


def check_composition(experiment: Experiment) -> None:
    """Refuse what cannot be.

    Args:
        experiment: Its components.

    Raises:
        ConfigError: If two of them do not go together; one sentence a pair.
    """
    if wrong := [
        *_faults_of_plan(experiment.parts),
        *_faults_of_training(experiment),
        *_faults_of_processes(experiment),
        *_faults_of_drift(experiment),
    ]:
        raise ConfigError("\n".join(wrong))


def check_parts(parts: PlanParts) -> None:
    """Refuse a plan that cannot be.

    Args:
        parts: What makes it.

    Raises:
        ConfigError: If two of them do not go together.
    """
    if wrong := list(_faults_of_plan(parts)):
        raise ConfigError("\n".join(wrong))


def _faults_of_plan(parts: PlanParts) -> Iterator[str]:
    method, policy = parts.method, _choice(parts.rank_policy)
    said, no_policy = f"method={method.name}", isinstance(parts.rank_policy, NoPolicy)
    if method.takes.ranks == "none" and not no_policy:
        yield f"{said} gives no matrix a rank, so it does not go with rank_policy={policy}: use rank_policy=none."
    if method.takes.ranks != "none" and no_policy:
        yield f"{said} needs to know which matrices it may adapt, and rank_policy=none chooses none: use another."
    if method.takes.ranks == "none" and parts.budget.kind != "none":
        yield f"{said} has no ranks that could be scaled to budget.kind={parts.budget.kind}: use budget=none."
    grouped = not isinstance(parts.grouping, Ungrouped)
    if grouped and not method.takes.groups:
        yield (
            f"{said} cannot share factors, as grouping={_choice(parts.grouping)} asks: "
            f"{_WHY_NO_GROUPS[method.takes.ranks]}. Use grouping=none."
        )
    if grouped and method.rounds > 1:
        yield (
            f"method.rounds={method.rounds} does not go with grouping={_choice(parts.grouping)}: a group's factors "
            "cannot be resized one by one. Use method.rounds=1."
        )
    if method.rounds > 1 and not parts.rank_policy.reads - set(PROBE_COLUMNS):
        yield (
            f"method.rounds={method.rounds} does not go with rank_policy={policy}, which reads no spectra: "
            "it would say the same again. Use method.rounds=1."
        )
    if method.rounds > 1 and parts.lr_by.reads:
        yield (
            f"method.rounds={method.rounds} does not go with lr_by.column={min(parts.lr_by.reads)}: the optimizer's "
            "groups are made before the columns of a later round are known. Use method.rounds=1 or lr_by=none."
        )
    if parts.lr_by.reads and no_policy:
        yield (
            f"lr_by.column={min(parts.lr_by.reads)} scales the learning rates of a policy's matrices, and {said} has "
            "none: use lr_by=none."
        )
    if isinstance(method, Eva):
        if not isinstance(parts.rank_policy, ExplainedVariance):
            yield (
                f"{said} starts from the directions that explain the variance of the inputs, so it does not go with "
                f"rank_policy={policy}: use rank_policy=explained_variance, or method=lora with rank_policy={policy}."
            )
        if parts.budget.kind != "none":
            yield (
                f"{said} has as many directions as EVA gave ranks, so it does not go with budget.kind="
                f"{parts.budget.kind}: set rank_policy.rank, or match the others to it with budget.of=eva."
            )


_WHY_NO_GROUPS = {
    "each": "its magnitudes, or its start, belong to one matrix",
    "one": "its singular values belong to one matrix",
    "whole": "it trains whole matrices",
    "none": "it adapts no single matrices",
}


def _faults_of_training(experiment: Experiment) -> Iterator[str]:
    method, label = experiment.method, experiment.quantization.label
    said = f"method={method.name}"
    if label != "none" and not method.takes.quantized:
        yield (
            f"{said} trains the weights themselves, which quantization={label} packs into integers: use "
            "quantization=none."
        )
    if experiment.training.activation_checkpointing and not method.takes.checkpointing:
        yield (
            f"{said} puts keys and values before the text, which training.activation_checkpointing=true would compute "
            "without: set it to false."
        )
    if experiment.training.keep_best and method.rounds > 1:
        yield (
            f"training.keep_best=true does not go with method.rounds={method.rounds}: the best weights may have other "
            "ranks than the last ones. Use method.rounds=1, or keep_best=false."
        )
    if experiment.training.batching == "packed":
        if experiment.model.kind != "causal_lm":
            yield (
                f"training.batching=packed lays texts end to end, which model.kind={experiment.model.kind} cannot tell "
                "apart: use training.batching=length."
            )
        if not method.takes.checkpointing:
            yield (
                f"{said} puts keys and values before the text, so training.batching=packed would hide them from all "
                "texts but the first: use training.batching=length."
            )
    if experiment.model.kind != "causal_lm" and not isinstance(experiment.general_text, NoText):
        yield (
            f"general_text is for causal language models, and model.kind={experiment.model.kind} does not continue "
            "text: use general_text=none."
        )
    if experiment.model.kind != "causal_lm" and experiment.dataset.train_on_inputs and not isinstance(method, Nothing):
        yield (
            f"dataset.train_on_inputs=true does not go with model.kind={experiment.model.kind}, which has no loss on "
            "its input: set it to false."
        )
    if experiment.model.kind == "classifier" and not method.takes.heads:
        yield (
            f"{said} cannot train the head of a classifier, and model={experiment.model.label} is one: use a method of "
            "the LoRA family."
        )


def _faults_of_processes(experiment: Experiment) -> Iterator[str]:
    method, label = experiment.method, experiment.quantization.label
    said = f"method={method.name}"
    if wrapper := wrapped_by():
        yield (
            f"accelerate was told to put {wrapper} around the model, which the run divides itself where it shall: use "
            "accelerate launch --config_file launch/ddp.yaml, or launch/sharded.yaml with training.sharded=true."
        )
    if process_count() > 1 and method.rounds > 1:
        yield (
            f"method.rounds={method.rounds} does not go with {process_count()} processes, which agree before the first "
            "step on the parameters whose gradients they average: use method.rounds=1, or one process."
        )
    if experiment.training.sharded:
        if process_count() == 1:
            yield (
                "training.sharded=true divides the base among processes, and this is the only one: start several with "
                "torchrun --nproc-per-node N -m spectral_ft.run ..."
            )
        if method.takes.ranks != "each":
            yield (
                f"{said} does not go with training.sharded=true, which keeps what is trained whole in each process and "
                "was made for LoRA: use method=lora (or another one whose matrices have ranks), or sharded=false."
            )
        if label != "none":
            yield (
                f"quantization={label} does not go with training.sharded=true: its packed weights cannot be divided. "
                "Use quantization=none, or sharded=false."
            )


def _faults_of_drift(experiment: Experiment) -> Iterator[str]:
    known = [*COLUMNS, *experiment.spectrum.columns]
    for name in getattr(experiment.drift, "columns", ()):
        if name not in known:
            yield f"drift.columns names {name}, which is no metric of a spectrum: there is {', '.join(known)}."


def _choice(component: Any) -> str:
    # File name = option name = module name.
    return type(component).__module__.rpartition(".")[2]
