"""The policy is asked again while the model trains; oracles: numpy's SVD, logits before, a training not cut."""

import copy
import gc
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from spectral_ft import run
from spectral_ft.experiment import Experiment
from spectral_ft.methods.seam import BaseModel
from spectral_ft.models.loading import load_model
from spectral_ft.models.quantization import Unquantized
from spectral_ft.stages import rounds
from spectral_ft.stages.allocation import plan_of
from spectral_ft.stages.base import base_model
from spectral_ft.stages.reading import what_plans_read
from spectral_ft.stages.rounds import Reallocation
from spectral_ft.stages.training import train_adapter
from spectral_ft.storage import read_json
from spectral_ft.types import AllocationPlan, SpectralReport, TrainOutcome
from tests.conftest import EMBEDDED, call_entry
from tests.test_compose import built
from tests.test_real_model import spectrum_ratio

SHORT = (
    "training.max_steps=6",
    "training.save_steps=1",
    "training.logging_steps=1",
    "training.warmup_steps=1",
    "training.batch_size=2",
    "training.micro_batch_size=2",
    "dataset.limit=12",
)
"""A training of a moment; with two rounds the boundary is after step 3."""
BOUNDARY, LAST = 3, 6
TWO = "method.rounds=2"
MIDDLE_THEN_HIGH = ("rank_policy.fractions=null", "rank_policy.thresholds=[5.0,0.0]")
"""A ratio of 1 is in the middle tier (rank 4, alpha 16), one of 9 in the high one (16, 32)."""
GROWING = ("rank_policy=snr_tiers", "rank_policy.mid.lr_multiplier=1.0", *MIDDLE_THEN_HIGH)

Reports = Callable[[SpectralReport], SpectralReport]


class Cut(Exception):  # noqa: N818 - reads as what happened
    """Stands for whatever stops a process."""


class Setting(NamedTuple):
    experiment: Experiment
    report: SpectralReport
    base: BaseModel


class Trained(NamedTuple):
    outcome: TrainOutcome
    plan: AllocationPlan
    """Of the start."""
    folder: Path

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "adapter" / "adapter_model.safetensors")

    @property
    def ranks_on_disk(self) -> dict[str, int]:
        return {module(key): len(value) for key, value in self.weights.items() if "lora_A" in key}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Sums in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_search_for_garbage() -> None:
    """What lives already is none; a training looks through all of it, which takes longer than its steps."""
    gc.freeze()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[Reports], None]:
    """Lets the measurement say something else."""

    def say(report: Reports) -> None:
        monkeypatch.setattr(Reallocation, "_measured", lambda self: report(self.report))

    return say


def with_ratios(report: SpectralReport, ratio: Callable[[float], float]) -> SpectralReport:
    """Other values of `snr`."""
    matrices = (replace(s, columns=s.columns | {"snr": ratio(s.columns["snr"] or 0.0)}) for s in report.matrices)
    return replace(report, matrices=tuple(matrices))


def turned(report: SpectralReport) -> SpectralReport:
    """The highest ratio becomes the lowest."""
    return with_ratios(report, lambda value: 1 / value)


def all_middle(report: SpectralReport) -> SpectralReport:
    return with_ratios(report, lambda value: 1.0)


def all_high(report: SpectralReport) -> SpectralReport:
    return with_ratios(report, lambda value: 9.0)


@cache
def setting(*options: str) -> Setting:
    experiment = built(*SHORT, *options)
    checkpoint = experiment.model.locate()
    with tempfile.TemporaryDirectory() as folder:
        report, _ = what_plans_read(experiment, checkpoint, parts=[experiment.parts], folder=Path(folder))
    return Setting(
        experiment, report, base_model(experiment, checkpoint, tuple(spectrum.matrix for spectrum in report.matrices))
    )


def plan_from(report: SpectralReport, *options: str) -> AllocationPlan:
    experiment, _, base = setting(*options)
    return plan_of(experiment.parts, base, report, None)


def trained(folder: Path, *options: str, start: Reports | None = None, cut_at: int | None = None) -> Trained:
    """Train as a run does; `start` changes the first report, `cut_at` stops before that step's checkpoint."""
    experiment, report, base = setting(*options)
    report = start(report) if start else report
    plan = plan_of(experiment.parts, base, report, None)

    def log_row(row: dict[str, Any]) -> None:
        if row["step"] == cut_at:
            raise Cut

    folder.mkdir(exist_ok=True)
    outcome = train_adapter(
        experiment,
        experiment.model.locate(),
        plan,
        base=base,
        report=report,
        probe=None,
        folder=folder,
        log_row=log_row,
    )
    assert outcome is not None
    return Trained(outcome, plan, folder)


def module(key: str) -> str:
    """The module that a tensor of an adapter is of."""
    return key.removeprefix("base_model.model.").partition(".lora_")[0]


def ranks(plan: AllocationPlan) -> dict[str, int]:
    return {allocation.name: allocation.rank for allocation in plan.allocations}


def same_weights(one: Trained, other: Trained) -> bool:
    a, b = one.weights, other.weights
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def opened(found: Trained) -> PeftModel:
    """By stock PEFT."""
    base = load_model(EMBEDDED, quantization=Unquantized(), dtype="float32", trust_remote_code=False)
    return PeftModel.from_pretrained(base, str(found.folder / "adapter"))


def ratio_of(name: str, found: Trained | None = None) -> float:
    """Spectrum's ratio of the checkpoint's `W`, or of `W + scaling B A`, from the files."""
    weight = load_file(EMBEDDED / "model.safetensors")[f"{name}.weight"].double().numpy()
    if found is not None:
        allocation = next(a for a in found.plan.allocations if a.name == name)
        factors = {f: found.weights[f"base_model.model.{name}.lora_{f}.weight"].double().numpy() for f in "AB"}
        weight = weight + allocation.lora_alpha / allocation.rank * factors["B"] @ factors["A"]
    return spectrum_ratio(weight)


# ---- at the end


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_one_round_measures_the_unquantized_weights_with_their_updates(quantization: str, tmp_path: Path) -> None:
    options = ("method=spectraqlora", f"quantization={quantization}", "training.learning_rate=0.05")
    found = trained(tmp_path, *options)
    (only,) = found.outcome.rounds
    assert (only.step, only.applied, only.plan) == (LAST, False, found.plan)
    values = only.columns["snr"]
    assert set(only.columns) == {"snr"} and values.keys() == {a.name for a in found.plan.adapted}
    assert values == {name: pytest.approx(ratio_of(name, found), rel=1e-6) for name in values}
    assert values != {name: pytest.approx(ratio_of(name), rel=1e-3) for name in values}


def test_one_round_measures_doras_weights_as_they_are_merged(tmp_path: Path) -> None:
    found = trained(tmp_path, "method=dora", "rank_policy=snr_top", "training.learning_rate=0.02")
    (only,) = found.outcome.rounds
    merged = opened(found).merge_and_unload()  # type: ignore[operator]
    values = {
        name: spectrum_ratio(merged.get_submodule(name).weight.detach().double().numpy())
        for name in only.columns["snr"]
    }
    assert len(values) == 7 and only.columns["snr"] == {n: pytest.approx(v, rel=1e-3) for n, v in values.items()}
    assert values != {name: pytest.approx(ratio_of(name), rel=1e-2) for name in values}


def test_what_the_policy_would_change_is_told_and_not_done(tmp_path: Path, measured: Callable[..., None]) -> None:
    measured(turned)
    found = trained(tmp_path, "method=spectraqlora")
    (only,) = found.outcome.rounds
    asked = ranks(plan_from(turned(setting("method=spectraqlora").report), "method=spectraqlora"))
    assert set(only.changed) == {name for name, rank in asked.items() if rank != ranks(found.plan)[name]}
    assert len(only.changed) == 14 and only.plan == found.plan
    assert found.ranks_on_disk == {a.name: a.rank for a in found.plan.adapted}


@pytest.mark.parametrize("options", [("method=alors", "method.rounds=0"), ("rank_policy=uniform",)])
def test_nothing_is_measured_without_rounds_or_without_a_column(
    options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "analyse", None)
    assert trained(tmp_path, *options).outcome.rounds == ()


# ---- at a boundary


@pytest.mark.parametrize(
    ("steps", "count", "boundaries"),
    [(8, 2, [4]), (9, 2, [4]), (10, 4, [2, 5, 8]), (7, 3, [2, 5]), (8, 1, []), (8, 0, [])],
)
def test_boundaries_are_shares_of_the_steps(steps: int, count: int, boundaries: list[int], tmp_path: Path) -> None:
    experiment, report, base = setting("method=alors")
    parts = replace(experiment.parts, method=replace(experiment.method, rounds=count))  # type: ignore[type-var]
    found = Reallocation(
        parts=parts,
        base=base,
        report=report,
        probe=None,
        weights=experiment.model.locate().block_matrices,
        how=experiment.spectrum.analysis,
        steps=steps,
        plan=plan_of(parts, base, report, None),
        model=torch.nn.Identity(),
    )
    assert found.boundaries == boundaries


@pytest.mark.parametrize("method", ["alors", "spectraqlora"])
def test_two_rounds_are_applied_at_half_time_and_measured_at_the_end(method: str, tmp_path: Path) -> None:
    found = trained(tmp_path, f"method={method}", TWO)
    first, last = found.outcome.rounds
    assert [(each.step, each.applied) for each in found.outcome.rounds] == [(BOUNDARY, True), (LAST, False)]
    assert {name for name, rank in ranks(first.plan).items() if rank != ranks(found.plan)[name]} <= set(first.changed)
    assert last.plan == first.plan
    here, there = first.columns["snr"], last.columns["snr"]
    assert here.keys() == there.keys() == {a.name for a in first.plan.adapted}
    assert {name for name in here if here[name] != there[name]} == {
        a.name for a in first.plan.adapted if a.lr_multiplier
    }


def test_a_selection_that_moves_is_followed(
    tmp_path: Path, measured: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(turned)
    after_boundary: dict[str, torch.Tensor] = {}
    act = Reallocation.after_step

    def watched(self: Reallocation, step: int, optimizer: torch.optim.Optimizer) -> None:
        act(self, step, optimizer)
        if step == BOUNDARY:
            lora = ((key, value) for key, value in self.model.named_parameters() if ".lora_" in key)
            after_boundary.update({key.replace(".default", ""): value.detach().clone() for key, value in lora})

    monkeypatch.setattr(Reallocation, "after_step", watched)
    found = trained(tmp_path, "method=spectraqlora", TWO)
    first, last = found.outcome.rounds
    asked = plan_from(turned(setting("method=spectraqlora").report), "method=spectraqlora")
    started, chosen = ({a.name for a in plan.adapted} for plan in (found.plan, asked))
    assert set(first.changed) == started ^ chosen and len(first.changed) == 14
    assert {a.name: a.lr_multiplier for a in first.plan.adapted} == {n: float(n in chosen) for n in started | chosen}
    assert first.plan.trainable_parameters == asked.trainable_parameters == found.outcome.trainable_parameters
    assert first.plan.adapter_parameters == asked.trainable_parameters + found.plan.trainable_parameters
    assert found.ranks_on_disk == {a.name: a.rank for a in first.plan.adapted}
    assert last.changed == () and last.plan == first.plan
    for key, value in found.weights.items():
        assert torch.equal(after_boundary[key], value) is (module(key) not in chosen), key


@pytest.mark.parametrize(
    ("options", "start", "then"),
    [
        (("method=alors", *GROWING), all_middle, all_high),
        (("method=rslora", *GROWING), all_middle, all_high),
        (("method=spectraqlora",), None, turned),
    ],
    ids=["alors", "rslora", "spectraqlora"],
)
def test_growing_changes_no_logit(
    options: tuple[str, ...],
    start: Reports | None,
    then: Reports,
    tmp_path: Path,
    measured: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured(then)
    seen: list[torch.Tensor] = []
    act = Reallocation.after_step

    def logits(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = copy.deepcopy(model).double().eval()(torch.arange(20, 84).reshape(2, 32)).logits
        return found

    def watched(self: Reallocation, step: int, optimizer: torch.optim.Optimizer) -> None:
        before = logits(self.model) if step == BOUNDARY else None
        act(self, step, optimizer)
        if before is not None:
            with self.model.disable_adapter():  # type: ignore[operator]
                seen.extend([logits(self.model), before])
            seen.append(logits(self.model))

    monkeypatch.setattr(Reallocation, "after_step", watched)
    found = trained(tmp_path, *options, TWO, start=start)
    without, before, after = seen
    assert len(found.outcome.rounds[0].changed) >= 14
    assert (before - without).abs().max() > 0.01
    assert (before - after).abs().max() < 1e-5


def test_what_has_grown_is_trained_and_opens_in_stock_peft(tmp_path: Path, measured: Callable[..., None]) -> None:
    measured(all_high)
    found = trained(tmp_path, "method=alors", *GROWING, TWO, start=all_middle)
    first = found.outcome.rounds[0]
    assert {a.rank for a in found.plan.adapted} == {4} and {a.rank for a in first.plan.adapted} == {16}
    assert len(first.changed) == 28
    assert set(found.ranks_on_disk.values()) == {16}
    grown = [value[:, 4:] for key, value in found.weights.items() if "lora_B" in key]
    assert len(grown) == 28 and all(columns.abs().max() > 0 for columns in grown)
    layers = [layer for name, layer in opened(found).get_base_model().named_modules() if name in ranks(first.plan)]
    assert [(layer.r["default"], layer.scaling["default"]) for layer in layers] == [(16, 2.0)] * 28  # type: ignore[index]


def test_matrices_that_change_tiers_take_the_tiers_rates(
    tmp_path: Path, measured: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(turned)
    rates: dict[str, float] = {}
    act = Reallocation.after_step

    def watched(self: Reallocation, step: int, optimizer: torch.optim.Optimizer) -> None:
        act(self, step, optimizer)
        if step == BOUNDARY:
            names = {parameter: module(key) for key, parameter in self.model.named_parameters()}
            rates.update({names[p]: group["initial_lr"] for group in optimizer.param_groups for p in group["params"]})

    monkeypatch.setattr(Reallocation, "after_step", watched)
    found = trained(tmp_path, "method=alors", TWO)
    experiment = setting("method=alors", TWO).experiment
    multipliers = {a.name: a.lr_multiplier for a in found.outcome.rounds[0].plan.adapted}
    assert set(multipliers.values()) == {0.0, 0.5, 1.0}
    peak = experiment.training.learning_rate
    assert rates == {name: pytest.approx(peak * value) for name, value in multipliers.items() if value}


def test_a_tier_that_was_empty_at_the_start_can_be_entered(tmp_path: Path, measured: Callable[..., None]) -> None:
    measured(all_high)
    found = trained(tmp_path, "method=alors", *MIDDLE_THEN_HIGH, TWO, start=all_middle)
    assert {a.lr_multiplier for a in found.plan.adapted} == {0.5}
    assert {a.lr_multiplier for a in found.outcome.rounds[0].plan.adapted} == {1.0}


# ---- cut and called again


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trained]:
    """A training from start to end, once for each set of options."""
    return cache(lambda *options: trained(tmp_path_factory.mktemp("uncut"), *options))


BEFORE, AT, BEYOND = BOUNDARY, BOUNDARY + 1, LAST


@pytest.mark.parametrize(
    ("method", "cut_at"),
    [
        ("spectraqlora", AT),
        ("spectraqlora", BEYOND),
        ("alors", BEFORE),
        ("alors", AT),
        ("alors", BEYOND),
    ],
)
def test_a_cut_training_ends_bit_for_bit_like_one_that_was_not(
    method: str, cut_at: int, tmp_path: Path, measured: Callable[..., None], uncut: Callable[..., Trained]
) -> None:
    measured(turned)
    options = (f"method={method}", TWO, "method.dropout=0.1")
    whole = uncut(*options)
    assert len(whole.outcome.rounds[0].changed) >= 14
    with pytest.raises(Cut):
        trained(tmp_path, *options, cut_at=cut_at)
    newest = max(int(path.name.rpartition("-")[2]) for path in (tmp_path / "checkpoints").iterdir())
    assert newest == cut_at - 1 and not (tmp_path / "train.json").exists()
    again = trained(tmp_path, *options)
    assert again.outcome.rounds == whole.outcome.rounds
    assert same_weights(whole, again)


def test_tiers_as_measured_are_resumed_too(tmp_path: Path, uncut: Callable[..., Trained]) -> None:
    options = ("method=alors", TWO)
    whole = uncut(*options)
    with pytest.raises(Cut):
        trained(tmp_path, *options, cut_at=BEYOND)
    again = trained(tmp_path, *options)
    assert again.outcome.rounds == whole.outcome.rounds and same_weights(whole, again)


# ---- the record


def test_the_record_of_a_run_has_its_rounds(tmp_path: Path) -> None:
    options = ("method=alors", TWO, "benchmark.limit=2", "benchmark.stages=[tuned]", "tracking.mode=disabled")
    assert call_entry(run.main, f"hydra.run.dir={tmp_path / 'run'}", *SHORT, *options) == 0
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    plan = read_json(tmp_path / "run" / "plan.json", AllocationPlan)
    assert record["plan"]["trainable_parameters"] == plan.trainable_parameters
    first, last = record["train"]["rounds"]
    for each, step, applied in ((first, BOUNDARY, True), (last, LAST, False)):
        assert set(each) == {"step", "applied", "changed", "plan", "columns"}
        assert (each["step"], each["applied"]) == (step, applied)
        assert set(each["changed"]) <= ranks(plan).keys() and len(each["changed"]) == len(set(each["changed"]))
        assert [a["name"] for a in each["plan"]["allocations"]] == list(ranks(plan))
        assert set(each["columns"]) == {"snr"}
        assert all(value > 0 for value in each["columns"]["snr"].values())
    assert {a["name"] for a in first["plan"]["allocations"] if a["rank"]} >= {a.name for a in plan.adapted}
