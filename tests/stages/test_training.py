"""What the training stage makes of a plan; oracles: Adam's first step, counted forward passes, the record."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from transformers.models.llama.modeling_llama import LlamaMLP

from spectral_ft import run
from spectral_ft.errors import CheckpointError, DataError, OutOfMemory, PlanError, RunError
from spectral_ft.stages import examples, training
from spectral_ft.stages.allocation import plan_of
from spectral_ft.stages.base import base_model
from spectral_ft.stages.reading import what_plans_read
from spectral_ft.stages.training import check_data, train_adapter
from spectral_ft.storage import read_json
from spectral_ft.training import held_out
from spectral_ft.types import AllocationPlan, MatrixAllocation, TrainOutcome
from tests.conftest import call_entry
from tests.test_compose import built

RATE = 1e-3
LOADER = "spectral_ft.stages.base.load_base"
ONE_STEP = (
    "training.max_steps=1",
    "training.warmup_steps=0",
    "training.schedule=constant",
    f"training.learning_rate={RATE}",
    "training.batch_size=4",
    "training.micro_batch_size=4",
    "dataset.limit=8",
)
"""Adam's first step moves every entry of B, which starts at zero, by the learning rate."""
RATES = ("method=alors", "method.rounds=0", "rank_policy.high.lr_multiplier=2.0", "rank_policy.mid.lr_multiplier=0.25")


class Trained(NamedTuple):
    outcome: TrainOutcome | None
    plan: AllocationPlan
    rows: list[dict[str, Any]]
    """Of the log."""


def trained(folder: Path, *options: str, rate_of: Callable[[MatrixAllocation], float] | None = None) -> Trained:
    """Train one step; `rate_of` gives other learning-rate multipliers than the policy."""
    experiment = built(*ONE_STEP, *options)
    checkpoint = experiment.model.locate()
    report, probe = what_plans_read(experiment, checkpoint, parts=[experiment.parts], folder=folder)
    base = base_model(experiment, checkpoint, tuple(spectrum.matrix for spectrum in report.matrices))
    plan = plan_of(experiment.parts, base, report, probe)
    if rate_of is not None:
        moved = tuple(replace(a, lr_multiplier=rate_of(a)) for a in plan.allocations)
        plan = experiment.method.plan(moved, base)
    rows: list[dict[str, Any]] = []
    outcome = train_adapter(
        experiment, checkpoint, plan, base=base, report=report, probe=probe, folder=folder, log_row=rows.append
    )
    return Trained(outcome, plan, rows)


def first_steps(folder: Path) -> dict[str, float]:
    """How far each matrix's B went from zero."""
    tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
    return {
        key.removeprefix("base_model.model.").partition(".lora_B")[0]: float(value.abs().max())
        for key, value in tensors.items()
        if "lora_B" in key
    }


# ---- learning rates


def test_the_tiers_learning_rates_reach_the_optimizer(tmp_path: Path) -> None:
    outcome, plan, _ = trained(tmp_path, *RATES)
    multipliers = {a.name: a.lr_multiplier for a in plan.adapted}
    assert sorted(set(multipliers.values())) == [0.25, 2.0]
    steps = first_steps(tmp_path)
    assert steps == {name: pytest.approx(RATE * value, rel=1e-3) for name, value in multipliers.items()}
    assert outcome is not None and outcome.steps == 1
    assert outcome.trainable_parameters == plan.trainable_parameters


def test_a_matrix_of_multiplier_zero_is_not_trained(tmp_path: Path) -> None:
    outcome, plan, _ = trained(tmp_path, rate_of=lambda allocation: float("mlp" in allocation.name))
    moved = {name for name, step in first_steps(tmp_path).items() if step > 0}
    assert moved == {a.name for a in plan.adapted if a.lr_multiplier} and len(moved) == 12
    assert outcome is not None
    assert outcome.trainable_parameters == plan.trainable_parameters < plan.adapter_parameters


@pytest.mark.parametrize("fault", [RuntimeError("size 4 must match size 32"), IndexError("index out of range")])
def test_a_base_whose_forward_pass_fails_is_one_sentence(
    fault: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: object, hidden: object) -> None:
        raise fault

    monkeypatch.setattr(LlamaMLP, "forward", fails)
    with pytest.raises(CheckpointError, match=rf"forward pass of tiny .*{fault}.* config\.json"):
        trained(tmp_path)
    assert not (tmp_path / "train.json").exists()


# ---- activation checkpointing


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Forward passes of the blocks' MLPs in training."""
    seen: list[int] = []
    forward = LlamaMLP.forward
    monkeypatch.setattr(
        LlamaMLP, "forward", lambda self, x: (seen.extend([1] * torch.is_grad_enabled()), forward(self, x))[1]
    )
    return seen


@pytest.mark.parametrize(
    ("method", "asked", "times"),
    [
        ("lora", "null", 1),
        ("lora", "true", 2),
        ("alors", "null", 2),
        ("alors", "false", 1),
        ("spectrum", "null", 1),
        ("spectrum", "true", 2),
    ],
)
def test_activations_are_recomputed_as_asked_or_as_the_method_says(
    method: str, asked: str, times: int, passes: list[int], tmp_path: Path
) -> None:
    options = (f"method={method}", f"training.activation_checkpointing={asked}", "rank_policy=uniform")
    trained(tmp_path, *options, *(("method.rounds=0",) if method == "alors" else ()))
    assert len(passes) == 4 * times


def test_recomputing_changes_no_weight(tmp_path: Path) -> None:
    for asked in ("true", "false"):
        trained(tmp_path / asked, f"training.activation_checkpointing={asked}")
    one, other = (load_file(tmp_path / asked / "adapter" / "adapter_model.safetensors") for asked in ("true", "false"))
    assert one.keys() == other.keys() and all(torch.allclose(one[key], other[key], atol=1e-7) for key in one)


# ---- the outcome


def test_a_finished_training_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, _, rows = trained(tmp_path)
    assert outcome is not None and [row["step"] for row in rows] == [1]
    assert outcome == read_json(tmp_path / "train.json", TrainOutcome)
    assert (outcome.adapter, outcome.examples, outcome.truncated_examples) == ("adapter", 8, 0)
    assert outcome.first_loss == outcome.final_loss == rows[0]["loss"] > 0
    assert not (tmp_path / "checkpoints").exists()
    origin = json.loads((tmp_path / "adapter" / "origin.json").read_text())
    assert origin["fingerprint"] == built().model.locate().fingerprint
    monkeypatch.setattr(LOADER, None)
    again, _, more = trained(tmp_path)
    assert again == outcome and not more


def test_a_length_beyond_the_context_is_told_before_anything_loads() -> None:
    experiment = built("dataset.max_length=129")
    message = (
        r"^dataset\.max_length=129 is beyond the context of tiny, which is 128 tokens: set dataset\.max_length=128"
    )
    with pytest.raises(DataError, match=message):
        check_data(experiment, experiment.model.locate())
    experiment = built("dataset.max_length=128")
    check_data(experiment, experiment.model.locate())


def test_without_training_no_data_is_checked() -> None:
    experiment = built("method=none", "dataset=jsonl", "dataset.data_dir=/no/such/file.jsonl")
    check_data(experiment, experiment.model.locate())
    experiment = built("dataset=jsonl", "dataset.data_dir=/no/such/file.jsonl")
    with pytest.raises(DataError, match=r"/no/such/file\.jsonl"):
        check_data(experiment, experiment.model.locate())


# ---- method=none


def test_without_a_method_nothing_is_trained(tmp_path: Path, passes: list[int]) -> None:
    outcome, plan, rows = trained(tmp_path, "method=none")
    assert outcome is None and not rows and not passes
    assert plan.trainable_parameters == plan.adapter_parameters == 0 and not plan.adapted
    assert not (tmp_path / "adapter").exists() and not (tmp_path / "train.json").exists()


def test_without_a_method_the_base_is_scored(tmp_path: Path) -> None:
    options = ("method=none", "benchmark.limit=2", "tracking.mode=disabled", f"hydra.run.dir={tmp_path / 'run'}")
    assert call_entry(run.main, *options) == 0
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["train"] is None
    assert {score["stage"] for score in record["scores"]} == {"base"}
    assert record["plan"]["trainable_parameters"] == record["plan"]["adapted_matrices"] == 0
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left >= {"plan.json", "scores.json", "samples", "result.json"}
    assert not left & {"adapter", "train.json", "checkpoints", "spectrum.parquet", "probe.safetensors"}


def test_a_training_example_is_named_by_the_row_of_its_data_set(tmp_path: Path) -> None:
    """Whatever was shuffled, held out, left out as too long, or taken from the cache."""
    rows = [{"instruction": f"{n} plus 2?" + "?" * 60 * (n % 3 == 0), "output": "3"} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    experiment = built(
        *("dataset=jsonl", f"dataset.data_dir={tmp_path / 'rows.jsonl'}", "dataset.shuffle_seed=5"),
        *("dataset.max_length=32", "dataset.validation=1", "dataset.limit=null"),
    )
    for _ in range(2):
        found = examples.tokenised(experiment, experiment.model.locate(), tmp_path)
        names = [found.named(place) for place in range(len(found.training))]
        numbers = [int(name.partition(" ")[0]) for name in names]
        assert names == [f"{n} ('{n} plus 2? 3')" for n in numbers] and numbers != sorted(numbers)
        assert set(numbers) < {n for n in range(12) if n % 3} and len(numbers) >= 7


@pytest.mark.parametrize(("steps", "said"), [(1, True), (2, False)])
def test_a_warm_up_that_never_ends_is_said(
    steps: int, said: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(tmp_path, "training.warmup_steps=1", f"training.max_steps={steps}")
    assert ("training.warmup_steps=1, and there are 1 steps" in caplog.text) is said


def test_examples_whose_completion_is_cut_off_spoil_no_batch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every third is too long, and a batch of one of these would have a mean over nothing."""
    rows = [{"instruction": "1 plus 2?" * (1 if n % 3 else 30), "input": "", "output": "3"} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = (
        *("dataset=jsonl", f"dataset.data_dir={tmp_path / 'rows.jsonl'}", "dataset.prompt=plain", "dataset.limit=null"),
        *("dataset.max_length=32", "dataset.validation=0", "training.micro_batch_size=1", "training.max_steps=4"),
    )
    outcome, _, log = trained(tmp_path / "run", *options)
    assert outcome is not None and (outcome.examples, outcome.dropped_examples, outcome.truncated_examples) == (8, 4, 0)
    assert all(row["loss"] > 0 for row in log)
    assert "left out 4 of 12 training examples, whose completions begin beyond dataset.max_length=32" in caplog.text


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        (("dataset.limit=3",), DataError, "3 training examples are fewer than training.batch_size=4: lower the batch"),
        (
            ("training.validation_steps=1", "dataset.validation=0"),
            DataError,
            "training.validation_steps=1 looks at validation examples, and there are none: raise dataset.validation",
        ),
        (("method=adalora",), PlanError, "a training of 1 steps is too short for AdaLoRA: method.tinit="),
    ],
)
def test_too_little_is_told_before_the_base_is_loaded(
    options: tuple[str, ...],
    error: type[Exception],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LOADER, lambda *args: pytest.fail("it was loaded"))
    with pytest.raises(error, match=re.escape(sentence)):
        trained(tmp_path, *options)


def test_what_a_cut_left_of_a_finished_training_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the record and the removal of the checkpoints."""

    def cut(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("spectral_ft.training.checkpoints.remove_checkpoints", cut)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path, "training.save_steps=1")
    assert (tmp_path / "train.json").exists() and (tmp_path / "checkpoints" / "checkpoint-1").is_dir()
    for process, left in ((1, True), (0, False)):
        monkeypatch.setenv("RANK", str(process))
        assert trained(tmp_path, "training.save_steps=1").outcome == read_json(tmp_path / "train.json", TrainOutcome)
        assert (tmp_path / "checkpoints").exists() is left


# ---- what a checkpoint must share with the run that goes on from it


@pytest.mark.parametrize(("room", "counts"), [("training", True), ("adapters", True), ("reporting", False)])
def test_code_that_trains_is_known_by_its_sources(
    room: str, counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = shutil.copytree(training.PACKAGE, tmp_path / "package", ignore=shutil.ignore_patterns("*.safetensors"))
    here = training.code_fingerprint()
    monkeypatch.setattr(training, "PACKAGE", copied)
    assert training.code_fingerprint() == here
    some = next((copied / room).glob("*.py"))
    some.write_text(some.read_text() + "# changed\n")
    assert (training.code_fingerprint() != here) is counts


def test_all_that_a_training_loads_is_known_by_its_sources_or_does_not_compute() -> None:
    """What is loaded beside composes, reads and writes files, or counts; a room that is added must be thought of."""
    beside = {"experiment", "errors", "fingerprint", "machine", "storage", "processes", "bfloat16", "hub", "identity"}
    beside |= {"configuration", "run_folder", "tracking", "reporting", "evaluation", "schema", "wandb_records"}
    beside |= {"spelling"}
    code = (
        "import sys\nimport spectral_ft.stages.training, spectral_ft.training.train, spectral_ft.adapters.resize\n"
        "print(' '.join({name.split('.')[1] for name in sys.modules if name.startswith('spectral_ft.')}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) - beside <= set(training.SOURCES) and {"training", "stages", "types"} <= set(loaded)


def test_a_checkpoint_of_other_code_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("training.max_steps=4", "training.save_steps=2")

    def cut(outcome: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "_tell", cut)
    monkeypatch.setattr("spectral_ft.training.checkpoints.remove_checkpoints", lambda folder: None)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, *options)
    (tmp_path / "train.json").unlink()
    monkeypatch.setattr(training, "code_fingerprint", lambda: "d" * 32)
    with pytest.raises(
        RunError, match=r"checkpoint-4 was written by other code .* than this \(fingerprint ddddddddddd"
    ):
        trained(tmp_path, *options)
    monkeypatch.undo()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(training, "first_process_first", nullcontext)
    with pytest.raises(RunError, match=r"checkpoint-4 was written with a world size of 1, and this run has one of 2"):
        trained(tmp_path, *options)


# ---- what a run measures, and how it ends


def test_both_losses_are_measured_once_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    mean_loss = held_out.mean_loss
    monkeypatch.setattr(held_out, "mean_loss", lambda *a, **k: (measured.append(1), mean_loss(*a, **k))[1])
    outcome, _, _ = trained(tmp_path, "dataset.validation=5")
    assert len(measured) == 4
    assert outcome is not None and outcome.validation_loss is not None and outcome.general_loss is not None
    assert outcome.general_loss.before == pytest.approx(0.6934, abs=1e-3) and outcome.general_loss.tokens == 4917
    assert outcome.validation_loss.before > 3 > outcome.general_loss.after
    assert outcome.validation_loss.after != outcome.validation_loss.before
    (tmp_path / "train.json").unlink()
    again, _, _ = trained(tmp_path, "dataset.validation=5")
    assert len(measured) == 4 + 2  # the base was not measured again
    assert again is not None and again.validation_loss == outcome.validation_loss


def test_held_out_losses_take_batches_that_training_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Larger ones may not fit where training does."""
    sizes: list[int] = []
    mean_loss = held_out.mean_loss
    monkeypatch.setattr(held_out, "mean_loss", lambda *a, **k: (sizes.append(k["batch_size"]), mean_loss(*a, **k))[1])
    trained(tmp_path, "dataset.validation=5", "training.micro_batch_size=2")
    assert set(sizes) == {2}


@pytest.mark.parametrize("mixed", [None, torch.bfloat16, torch.float16])
def test_training_mixes_precisions_where_the_weights_say_so(
    mixed: torch.dtype | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[bool, bool]] = []

    def train(*args: object, bf16: bool, fp16: bool, **options: object) -> None:
        asked.append((bf16, fp16))
        raise KeyboardInterrupt

    monkeypatch.setattr("spectral_ft.training.train.train", train)
    monkeypatch.setattr("spectral_ft.models.device.autocast_dtype", lambda dtype, device: mixed)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path)
    assert asked == [(mixed == torch.bfloat16, mixed == torch.float16)]


def test_nothing_held_out_is_no_loss(tmp_path: Path) -> None:
    outcome, _, _ = trained(tmp_path, "dataset.validation=0", "general_text=none")
    assert outcome is not None and (outcome.validation_loss, outcome.general_loss) == (None, None)


def test_running_out_of_memory_tells_the_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nmore")

    monkeypatch.setattr("spectral_ft.training.train.train", full)
    sentence = (
        r"ran out of memory with micro batches of 4 x 128 tokens; the plan was estimated at 0\.\d GiB \(base 0\.0, "
        r"adapters 0\.0, gradients 0\.0, optimizer 0\.0, activations 0\.\d\): lower training\.micro_batch_size or "
        r"dataset\.max_length, .* \(CUDA out of memory\. Tried to allocate 20 GiB\.\)"
    )
    with pytest.raises(OutOfMemory, match=sentence):
        trained(tmp_path)


@pytest.mark.parametrize("batching", ["length", "packed"])
def test_every_batching_trains(batching: str, tmp_path: Path) -> None:
    outcome, _, _ = trained(tmp_path, f"training.batching={batching}")
    assert outcome is not None and outcome.steps == 1 and 3 < outcome.first_loss < 5
    assert outcome.tokens > 0


def test_learning_rates_by_a_column_reach_the_optimizer(tmp_path: Path) -> None:
    _, plan, _ = trained(tmp_path, "lr_by=temp_balance")
    multipliers = {a.name: a.lr_multiplier for a in plan.adapted}
    assert (
        min(multipliers.values()) == 0.5 and max(multipliers.values()) == 1.5 and len(set(multipliers.values())) == 28
    )
    assert first_steps(tmp_path) == pytest.approx({name: RATE * m for name, m in multipliers.items()}, rel=1e-3)
