"""Every method, and every legal composition, on the embedded model. Slow.

Oracles: what `composition.py` allows is built, trained and counted as planned; a new process
reads back from the folder what a training process had in memory, with equal logits.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from spectral_ft.adapters.counting import trained_parameters
from spectral_ft.compose import build_experiment, composed
from spectral_ft.configuration import CONF
from spectral_ft.errors import ConfigError, PlanError
from spectral_ft.experiment import Experiment, all_parts
from spectral_ft.stages.allocation import plan_of
from spectral_ft.stages.base import base_model, load_base
from spectral_ft.stages.reading import what_plans_read
from spectral_ft.types import Probe, SpectralReport
from tests.conftest import REPOSITORY, call_entry

pytestmark = pytest.mark.slow
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
POLICIES = sorted(path.stem for path in (CONF / "rank_policy").glob("*.yaml"))
QUANTIZATIONS = ("none", "nf4", "int8")
SHORT = ("training.max_steps=12", "training.warmup_steps=2", "training.save_steps=6", "dataset.limit=64")
STEPS = 3
IDS = torch.arange(3, 43).reshape(2, 20)
READ_BACK = """
import sys, torch
from pathlib import Path
from spectral_ft.adapters.opening import open_adapter
from spectral_ft.compose import build_experiment, composed
from spectral_ft.stages.base import load_base
experiment = build_experiment(composed(sys.argv[3:]))
model = open_adapter(load_base(experiment, experiment.model.locate()), Path(sys.argv[1]))
with torch.no_grad():
    torch.save(model(input_ids=torch.arange(3, 43).reshape(2, 20)).logits, sys.argv[2])
"""


@pytest.fixture
def trained_logits(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Filled with the logits of the model as it stood in memory when a training ended."""
    from spectral_ft.training import train as training

    original, found = training.train, []

    def watched(trained: Any, *arguments: Any, **options: Any) -> Any:
        outcome = original(trained, *arguments, **options)
        trained.model.eval()
        with torch.no_grad():
            found.append(trained.model(input_ids=IDS).logits.clone())
        return outcome

    monkeypatch.setattr(training, "train", watched)
    return found


@pytest.mark.parametrize("method", [name for name in METHODS if name != "none"])
def test_a_method_trains_is_scored_saved_and_read_back_by_a_new_process(
    method: str, tmp_path: Path, trained_logits: list[torch.Tensor]
) -> None:
    from spectral_ft import run

    folder = tmp_path / "run"
    chosen = [f"method={method}", *SHORT, "benchmark.limit=4", "tracking.mode=disabled"]
    assert call_entry(run.main, f"hydra.run.dir={folder}", *chosen) == 0
    again = tmp_path / "logits.pt"
    command = [sys.executable, "-c", READ_BACK, str(folder / "adapter"), str(again), *chosen]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=300)
    (before,) = trained_logits
    torch.testing.assert_close(torch.load(again, weights_only=True), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_exported_or_says_why_not(method: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from spectral_ft import export, run

    folder = tmp_path / "run"
    chosen = [f"method={method}", *SHORT, "benchmark.limit=4", "tracking.mode=disabled"]
    assert call_entry(run.main, f"hydra.run.dir={folder}", *chosen) == 0
    capfd.readouterr()
    code = call_entry(export.main, f"run={folder}", "to=[merged]")
    said = capfd.readouterr().err
    if method in {"prefix", "adapter_s", "adapter_p", "none"}:
        assert code == 1
        assert method in said
    else:
        assert code == 0, said


@cache
def read(policy: str, quantization: str, grouped: bool, folder: Path) -> tuple[SpectralReport, Probe | None]:
    experiment = build_experiment(
        composed(options("lora", {"none": "uniform"}.get(policy, policy), quantization, grouped))
    )
    place = folder / f"{policy}-{quantization}-{grouped}"
    place.mkdir()
    return what_plans_read(experiment, experiment.model.locate(), parts=all_parts(experiment.parts), folder=place)


def options(method: str, policy: str, quantization: str, grouped: bool) -> list[str]:
    named = [f"method={method}", f"rank_policy={policy}", f"quantization={quantization}", *SHORT]
    return [*named, f"grouping={'sgm' if grouped else 'none'}", "probe.batches=2"]


def compositions() -> Iterator[tuple[str, str, str, bool]]:
    for method in METHODS:
        for policy in POLICIES:
            for quantization in QUANTIZATIONS:
                for grouped in (False, True):
                    yield method, policy, quantization, grouped


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("read")


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Experiment], list[dict[str, torch.Tensor]]]:
    from spectral_ft.stages.examples import tokenised

    found: list[dict[str, torch.Tensor]] = []

    def make(experiment: Experiment) -> list[dict[str, torch.Tensor]]:
        if not found:
            data = tokenised(experiment, experiment.model.locate(), tmp_path_factory.mktemp("data"))
            examples, collate = data.training, data.collate
            found.extend(collate([examples[4 * i + j] for j in range(4)]) for i in range(STEPS))
        return found

    return make


@pytest.mark.parametrize(("method", "policy", "quantization", "grouped"), list(compositions()))
def test_a_legal_composition_trains_what_it_planned_and_an_illegal_one_is_a_sentence(
    method: str,
    policy: str,
    quantization: str,
    grouped: bool,
    place: Path,
    batches: Callable[[Experiment], list[dict[str, torch.Tensor]]],
) -> None:
    try:
        experiment = build_experiment(composed(options(method, policy, quantization, grouped)))
    except ConfigError as error:
        assert f"method={method}" in str(error)
        pytest.skip("refused, with a sentence")
    checkpoint = experiment.model.locate()
    report, probe = read(policy, quantization, grouped, place)
    base = base_model(experiment, checkpoint, tuple(spectrum.matrix for spectrum in report.matrices))
    try:
        plan = plan_of(experiment.parts, base, report, probe)
    except PlanError as error:
        assert method == "adalora"
        assert "takes a selection" in str(error)
        pytest.skip("refused, with a sentence")
    if method == "none":
        assert plan.trainable_parameters == 0
        return
    model = load_base(experiment, checkpoint)
    torch.manual_seed(0)
    if method == "dora" and quantization == "int8" and not torch.cuda.is_available():
        with pytest.raises(PlanError, match="does not run on an 8-bit base on a CPU"):
            experiment.method.adapt(model, plan, base=base, steps=STEPS, probe=probe)
        return
    trained = experiment.method.adapt(model, plan, base=base, steps=STEPS, probe=probe)
    expected = plan.adapter_parameters if method == "adalora" else plan.trainable_parameters
    assert trained_parameters(trained.model) == expected
    parameters = [parameter for parameter in trained.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    trained.model.train()
    for step, batch in enumerate(batches(experiment), start=1):
        loss = trained.model(**batch).loss
        loss.backward()
        optimizer.step()
        trained.after_step(step)
        optimizer.zero_grad()
        assert torch.isfinite(loss)
    assert all(torch.isfinite(parameter).all() for parameter in parameters)
    trained.save(place / "saved" / f"{method}-{policy}-{quantization}-{grouped}")
