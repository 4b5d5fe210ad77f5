"""The training loop; oracles: transformers' own count of steps, a run that was not cut, one batch in one go."""

import gc
import math
import signal
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import Trainer, TrainingArguments

from spectral_ft.adapters.adalora import ranks
from spectral_ft.adapters.opening import open_adapter
from spectral_ft.errors import ConfigError, DataError, Interrupted
from spectral_ft.methods.seam import Adapted
from spectral_ft.training.arguments import trainer_arguments
from spectral_ft.training.checkpoints import Origin, last_checkpoint, seconds_of
from spectral_ft.training.interruption import SIGNALS
from spectral_ft.training.settings import RELIED_ON, TrainingSettings
from spectral_ft.training.train import TrainingDiverged, optimizer_steps, seed_everything, train
from spectral_ft.types import FILL, MatrixAllocation, TrainOutcome
from tests.methods.small_bases import adalora, adapt, even, frozen, logits, lora, seen, trained

BASE = seen(frozen("llama"))
SETTINGS = TrainingSettings(
    epochs=1.0,
    max_steps=12,
    batch_size=4,
    micro_batch_size=2,
    batching="random",
    learning_rate=1e-2,
    schedule="linear",
    schedule_options={},
    warmup_steps=2,
    weight_decay=0.0,
    max_grad_norm=1.0,
    optimizer="adamw_torch",
    activation_checkpointing=None,
    fused_loss=True,
    sharded=False,
    validation_steps=None,
    early_stopping=None,
    keep_best=False,
    save_steps=4,
    logging_steps=1,
    trainer_options={},
)
ORIGIN = Origin("run", "plan", {"torch": "2"}, "code", None, 1)


@pytest.fixture(scope="module", autouse=True)
def quick_collection() -> Iterator[None]:
    """Every training begins with a garbage collection, most of whose time is spent on imported modules."""
    gc.freeze()
    yield
    gc.unfreeze()


class Examples(list[dict[str, Any]]):
    """Of several lengths, the first half of each not learnt."""

    truncated, dropped = 3, 1

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(3, 9, (count,), generator=generator).tolist()
        rows = (torch.randint(4, 32, (length,), generator=generator).tolist() for length in lengths)
        super().__init__({"input_ids": row, "labels": [-100] * (len(row) // 2) + row[len(row) // 2 :]} for row in rows)


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(key: str, value: int) -> torch.Tensor:
        return torch.tensor([row[key] + [value] * (longest - len(row[key])) for row in rows])

    mask = torch.tensor([[1] * len(r["input_ids"]) + [0] * (longest - len(r["input_ids"])) for r in rows])
    return {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100), "attention_mask": mask}


class Rounds:
    """Sees what the loop tells it."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.written: list[str] = []

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        assert any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
        self.steps.append(step)

    def write(self, checkpoint: Path) -> None:
        assert checkpoint.is_dir()
        self.written.append(checkpoint.name)


class Cut(Exception):  # noqa: N818 - what happens, no error
    """The machine goes away."""


class Log(list[dict[str, Any]]):
    """Takes the rows; cuts the training before it takes that of a step."""

    def __init__(self, cut: int | None = None) -> None:
        super().__init__()
        self.cut = cut

    def __call__(self, row: dict[str, Any]) -> None:
        if row["step"] == self.cut:
            raise Cut
        self.append(row)


def run(adapted: Adapted, folder: Path, log: Log | None = None, **options: Any) -> TrainOutcome:
    defaults: dict[str, Any] = {"activation_checkpointing": False, "multipliers": {}, "seed": 3, "resume": None}
    defaults |= {"origin": ORIGIN}
    changes = {key: options.pop(key) for key in list(options) if hasattr(SETTINGS, key) and key not in defaults}
    return train(
        adapted,
        options.pop("examples", None) or Examples(24),
        collate,
        replace(SETTINGS, **changes),
        rounds=options.pop("rounds", None) or Rounds(),
        folder=folder,
        log_row=Log() if log is None else log,
        **defaults | options,
    )


# ---- how many steps


class OneNumber(torch.nn.Module):
    """The smallest model that the Trainer trains."""

    def __init__(self) -> None:
        super().__init__()
        self.number = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.number - x.mean()) ** 2}


@pytest.mark.parametrize(
    ("examples", "batch", "micro", "epochs", "expected"),
    [
        (16, 4, 4, 1.0, 4),
        (16, 4, 2, 3.0, 12),
        (17, 4, 2, 1.0, 5),
        (17, 4, 1, 2.0, 10),
        (19, 8, 2, 1.0, 3),
        (19, 8, 2, 2.5, 8),
        (20, 6, 3, 0.5, 2),
        (9, 8, 4, 0.01, 1),
        (23, 6, 2, 3.3, 14),
        (10, 10, 1, 1.0, 1),
    ],
)
def test_steps_are_those_of_the_trainer(
    examples: int, batch: int, micro: int, epochs: float, expected: int, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, max_steps=None, epochs=epochs, batch_size=batch, micro_batch_size=micro)
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=batch // micro,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=True,
    )
    trainer = Trainer(OneNumber(), arguments, train_dataset=[{"x": float(n)} for n in range(examples)])  # type: ignore[arg-type]
    trainer.train()
    assert optimizer_steps(settings, examples) == trainer.state.global_step == expected


def test_steps_that_are_given_go_before_epochs() -> None:
    assert optimizer_steps(replace(SETTINGS, max_steps=7, epochs=100.0), 1000) == 7


def test_a_batch_is_a_multiple_of_the_micro_batch() -> None:
    with pytest.raises(ConfigError, match=r"training\.batch_size=4 is no multiple of training\.micro_batch_size=3"):
        replace(SETTINGS, micro_batch_size=3)


# ---- what a training does


def test_what_is_told_of_a_training(tmp_path: Path) -> None:
    """Three epochs of 10 examples, four a step: the last step of an epoch has two."""
    examples, log, rounds, seen_steps = Examples(10), Log(), Rounds(), []
    adapted = adapt("lora", frozen("llama"), BASE)._replace(after_step=seen_steps.append)
    outcome = run(adapted, tmp_path, log, examples=examples, rounds=rounds, max_steps=None, epochs=3.0)
    assert seen_steps == rounds.steps == list(range(1, 10))
    assert rounds.written == ["checkpoint-4", "checkpoint-8", "checkpoint-9"]
    assert (outcome.steps, outcome.examples, outcome.truncated_examples, outcome.dropped_examples) == (9, 10, 3, 1)
    assert outcome.tokens == 3 * sum(len(row["input_ids"]) for row in examples)
    assert outcome.trainable_parameters == sum(p.numel() for p in trained(adapted.model).values())
    assert [row["step"] for row in log] == list(range(1, 10))
    losses = [row["loss"] for row in log]
    assert outcome.first_loss == losses[0] and outcome.final_loss == losses[-1] < losses[0]
    assert [row["learning_rate"] for row in log] == pytest.approx([
        1e-2 * min(step / 2, (9 - step) / 7) for step in range(9)
    ])
    assert outcome.tokens_per_second == pytest.approx(outcome.tokens / outcome.seconds, rel=0.05)
    assert outcome.adapter == "adapter"
    assert torch.equal(logits(open_adapter(frozen("llama"), tmp_path / "adapter")), logits(adapted.model.eval()))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["checkpoint-8", "checkpoint-9"]


def test_the_final_loss_is_the_mean_of_the_last_tenth(tmp_path: Path) -> None:
    log = Log()
    outcome = run(adapt("lora", frozen("llama"), BASE), tmp_path, log, max_steps=25, save_steps=100)
    assert outcome.final_loss == pytest.approx(sum(row["loss"] for row in log[-2:]) / 2)


@pytest.mark.parametrize("steps", [9, 23, 30])
def test_the_final_loss_is_of_the_last_steps_wherever_rows_are(steps: int, tmp_path: Path) -> None:
    """Rows at the first step, at every tenth and at the last; oracle: a row a step."""
    each, some = Log(), Log()
    expected = run(adapt("lora", frozen("llama"), BASE), tmp_path / "1", each, max_steps=steps)
    found = run(adapt("lora", frozen("llama"), BASE), tmp_path / "2", some, max_steps=steps, logging_steps=10)
    assert (found.first_loss, found.final_loss) == (expected.first_loss, expected.final_loss)
    losses, before = [row["loss"] for row in each], 0
    assert found.final_loss == sum(losses[-max(1, steps // 10) :]) / max(1, steps // 10) != found.first_loss
    assert [row["step"] for row in some] == sorted({1, *range(10, steps + 1, 10), steps})
    for row in some:
        assert row["loss"] == pytest.approx(sum(losses[before : row["step"]]) / (row["step"] - before), rel=1e-12)
        before = row["step"]


def test_where_patience_ends_there_is_a_last_row(tmp_path: Path) -> None:
    log, options = Log(), {"validation_steps": 2, "early_stopping": 1, "validation_loss": Losses(1.0, 1.0)}
    outcome = run(adapt("lora", frozen("llama"), BASE), tmp_path, log, logging_steps=10, **options)
    assert outcome.steps == 4 and [row["step"] for row in log if "loss" in row] == [1, 4]


def test_examples_are_counted_as_often_as_they_were_learnt_from(tmp_path: Path) -> None:
    """Two epochs of ten, four a step: the last step of an epoch has two; and through a cut."""
    options: dict[str, Any] = {"max_steps": None, "epochs": 2.0, "examples": Examples(10), "save_steps": 2}
    outcome = run(adapt("lora", frozen("llama"), BASE), tmp_path / "whole", **options)
    assert outcome.samples_per_second == pytest.approx(20 / outcome.seconds, rel=1e-2)
    with pytest.raises(Cut):
        run(adapt("lora", frozen("llama"), BASE), tmp_path / "cut", Log(cut=5), **options)
    resume = last_checkpoint(tmp_path / "cut" / "checkpoints", ORIGIN)
    outcome = run(adapt("lora", frozen("llama"), BASE), tmp_path / "cut", resume=resume, **options)
    assert resume is not None and outcome.samples_per_second == pytest.approx(20 / outcome.seconds, rel=1e-2)


def test_memory_is_that_of_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of what was tried before it, nor of what is saved after it."""
    told: list[str] = []

    class Tells(Log):
        def __call__(self, row: dict[str, Any]) -> None:
            told.append(f"step {row['step']}")

    monkeypatch.setattr("spectral_ft.training.watch.forget_peaks", lambda: told.append("forgotten"))
    monkeypatch.setattr("spectral_ft.training.train.peak_device_bytes", lambda: told.append("device") or 7)
    monkeypatch.setattr("spectral_ft.training.train.peak_process_bytes", lambda: told.append("process") or 8)
    adapted = adapt("lora", frozen("llama"), BASE)
    outcome = run(
        adapted._replace(save=lambda folder: told.append("saved") or adapted.save(folder)),
        tmp_path,
        Tells(),
        max_steps=1,
    )
    assert told == ["forgotten", "step 1", "process", "device", "saved"]
    assert (outcome.peak_device_bytes, outcome.peak_memory_bytes) == (7, 8)


def test_it_is_adamw_with_clipping_warm_up_and_decay(tmp_path: Path) -> None:
    """The same in eleven lines, on a training set of one batch."""
    ours, byhand = (adapt("lora", frozen("llama"), BASE) for _ in range(2))
    settings = {"max_steps": 6, "weight_decay": 0.5, "max_grad_norm": 0.02, "learning_rate": 0.03}
    log = Log()
    run(ours, tmp_path, log, examples=Examples(4), **settings)
    parameters = list(trained(byhand.model).values())
    optimizer, batch, norms = torch.optim.AdamW(parameters, weight_decay=0.5), collate(Examples(4)), []
    for step in range(6):
        for group in optimizer.param_groups:
            group["lr"] = 0.03 * min(step / 2, (6 - step) / 4)
        byhand.model(**batch).loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, 0.02)))
        optimizer.step()
        optimizer.zero_grad()
    assert [row["grad_norm"] for row in log] == pytest.approx(norms, rel=1e-3)
    assert min(norms) > 0.02
    for name, parameter in trained(byhand.model).items():
        torch.testing.assert_close(trained(ours.model)[name], parameter, rtol=1e-3, atol=1e-6)


def test_the_schedule_and_its_options_are_taken(tmp_path: Path) -> None:
    """Half a cosine from 1 to 0.4 of the learning rate, and a row at the first step and then at every second."""
    log = Log()
    options = {"schedule": "cosine_with_min_lr", "schedule_options": {"min_lr_rate": 0.4}, "warmup_steps": 0}
    run(adapt("lora", frozen("llama"), BASE), tmp_path, log, max_steps=6, logging_steps=2, **options)
    assert [row["step"] for row in log] == [1, 2, 4, 6]
    expected = [1e-2 * (0.4 + 0.6 * (1 + math.cos(math.pi * (row["step"] - 1) / 6)) / 2) for row in log]
    assert [row["learning_rate"] for row in log] == pytest.approx(expected)


@pytest.mark.parametrize("micro", [1, 2])
def test_micro_batches_add_up_to_the_batch(micro: int, tmp_path: Path) -> None:
    """Though their examples have unequal numbers of learnt tokens."""
    whole, parts = (adapt("lora", frozen("llama"), BASE) for _ in range(2))
    log = Log(), Log()
    run(whole, tmp_path / "1", log[0], micro_batch_size=4, max_steps=3, optimizer="sgd")
    run(parts, tmp_path / "2", log[1], micro_batch_size=micro, max_steps=3, optimizer="sgd")
    for one, other in zip(*log, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    for name, parameter in trained(whole.model).items():
        torch.testing.assert_close(trained(parts.model)[name], parameter, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "adapter_s", "spectrum", "full"])
def test_recomputed_activations_change_no_weight(name: str, tmp_path: Path) -> None:
    plain, recomputed = (adapt(name, frozen("llama"), BASE) for _ in range(2))
    start = {key: parameter.detach().clone() for key, parameter in trained(plain.model).items()}
    passes = {False: 0, True: 0}
    for adapted, checkpointing in ((plain, False), (recomputed, True)):

        def count(*_: object, checkpointing: bool = checkpointing) -> None:
            passes[checkpointing] += torch.is_grad_enabled()

        mlp = next(m for key, m in adapted.model.named_modules() if key.endswith("layers.0.mlp"))
        mlp.register_forward_pre_hook(count)  # recomputation stops before the last module ends
        run(adapted, tmp_path / str(checkpointing), activation_checkpointing=checkpointing, max_steps=3)
    assert passes == {False: 3 * 2, True: 2 * 3 * 2}
    for key, parameter in trained(plain.model).items():
        assert not torch.equal(parameter, start[key]), key
        torch.testing.assert_close(trained(recomputed.model)[key], parameter)


def test_a_multiplier_scales_the_first_step(tmp_path: Path) -> None:
    slow, fast = BASE.matrices[1].name, BASE.matrices[2].name
    steps = []
    for number, multipliers in enumerate(({}, {slow: 0.25, fast: 4.0})):
        adapted = adapt("lora", frozen("llama"), BASE)
        start = {name: parameter.detach().clone() for name, parameter in trained(adapted.model).items()}
        options = {"optimizer": "sgd", "warmup_steps": 0, "max_steps": 1, "multipliers": multipliers}
        run(adapted, tmp_path / str(number), **options)
        steps.append({name: parameter.detach() - start[name] for name, parameter in trained(adapted.model).items()})
    for name, step in steps[0].items():
        scale = 0.25 if slow in name else 4.0 if fast in name else 1.0
        torch.testing.assert_close(steps[1][name], scale * step, rtol=1e-4, atol=1e-8)
    assert any(step.any() for name, step in steps[0].items() if slow in name)


def test_adalora_loses_ranks_in_a_real_training(tmp_path: Path) -> None:
    adapted = adapt("adalora", frozen("llama"), BASE, method=adalora(factor=2.0), steps=40)
    run(adapted, tmp_path, max_steps=40, save_steps=100, learning_rate=3e-2)
    left = ranks(cast(Any, adapted.model))
    assert sum(left.values()) == 2 * len(left) == 2 * sum(a.rank > 0 for a in even(BASE.matrices))
    assert min(left.values()) < 2 < max(left.values())
    opened = logits(open_adapter(frozen("llama"), tmp_path / "adapter"))
    torch.testing.assert_close(opened, logits(adapted.model.eval()), rtol=1e-5, atol=1e-6)


# ---- cut and resumed


def shared() -> Adapted:
    """Two groups, one sharing both factors and one sharing A; dropout, so that random states matter."""
    gates = [m.name for m in BASE.matrices if m.type in {"gate_proj", "up_proj"}]
    queries = [m.name for m in BASE.matrices if m.type == "q_proj"]
    given = {name: MatrixAllocation(name, 2, 4.0, 1.0, "gates", "AB") for name in gates}
    given |= {name: MatrixAllocation(name, 2, 4.0, 0.5, "queries", "A") for name in queries}
    plan = lora().plan(tuple(given.get(m.name, MatrixAllocation(m.name, 0, 0.0)) for m in BASE.matrices), BASE)
    adapted: Adapted = lora(dropout=0.3).adapt(frozen("llama"), plan, base=BASE, steps=6, probe=None)
    return adapted


STARTS = {
    "lora with dropout": lambda: adapt("lora", frozen("llama"), BASE, method=lora(dropout=0.3)),
    "dora": lambda: adapt("dora", frozen("llama"), BASE),
    "shared": shared,
    "adalora": lambda: adapt("adalora", frozen("llama"), BASE, method=adalora(factor=2.0, interval=1), steps=6),
    "prefix": lambda: adapt("prefix", frozen("llama"), BASE),
    "adapter_p": lambda: adapt("adapter_p", frozen("llama"), BASE),
    "full": lambda: adapt("full", frozen("llama"), BASE),
}


SHORT = {"max_steps": 6, "save_steps": 2}


@pytest.mark.parametrize(("start", "cut", "last"), [*((start, 4, 2) for start in STARTS), ("lora with dropout", 6, 4)])
def test_a_resumed_training_equals_one_that_was_not_cut(start: str, cut: int, last: int, tmp_path: Path) -> None:
    seed_everything(3)
    whole, log = STARTS[start](), Log()
    expected = run(whole, tmp_path / "whole", log, **SHORT)
    seed_everything(3)
    with pytest.raises(Cut):
        run(STARTS[start](), tmp_path / "cut", Log(cut), **SHORT)
    assert not (tmp_path / "cut" / "adapter").exists()
    resume = last_checkpoint(tmp_path / "cut" / "checkpoints", ORIGIN)
    assert resume is not None and resume.name == f"checkpoint-{last}"
    before = seconds_of(resume)
    seed_everything(99)  # what a new process begins with must not matter
    again, rest = STARTS[start](), Log()
    found = run(again, tmp_path / "cut", rest, resume=resume, **SHORT)
    for name, parameter in trained(whole.model).items():
        assert torch.equal(trained(again.model)[name], parameter), name
    assert [row["loss"] for row in rest] == [row["loss"] for row in log if row["step"] > last]
    assert (found.steps, found.tokens) == (expected.steps, expected.tokens)
    assert found.seconds > rest[0]["seconds"] > before > 0  # over both calls
    assert (found.first_loss, found.final_loss) == (expected.first_loss, expected.final_loss)


@pytest.mark.parametrize("end", ["a cut", "a signal"])
def test_rows_and_means_are_those_of_a_training_that_was_not_cut(end: str, tmp_path: Path) -> None:
    """Between two rows; what the checkpoint does not hold of a row is lost."""
    options = {"max_steps": 11, "save_steps": 2 if end == "a cut" else 100, "logging_steps": 3}
    whole, cut, rest = Log(), Log(9), Log()
    expected = run(adapt("lora", frozen("llama"), BASE), tmp_path / "whole", whole, **options)
    if end == "a signal":
        cut = Asks(6, signal.SIGTERM)
    with pytest.raises((Cut, Interrupted)):
        run(adapt("lora", frozen("llama"), BASE), tmp_path / "cut", cut, **options)
    resume = last_checkpoint(tmp_path / "cut" / "checkpoints", ORIGIN)
    assert resume is not None and resume.name == ("checkpoint-8" if end == "a cut" else "checkpoint-7")
    found = run(adapt("lora", frozen("llama"), BASE), tmp_path / "cut", rest, resume=resume, **options)
    assert [(r["step"], r["loss"]) for r in cut + rest] == [(r["step"], r["loss"]) for r in whole]
    assert (found.first_loss, found.final_loss) == (expected.first_loss, expected.final_loss)


# ---- what cannot be trained


def test_fewer_examples_than_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"3 training examples are fewer than training\.batch_size=4: lower the batch"):
        run(adapt("lora", frozen("llama"), BASE), tmp_path, examples=Examples(3))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def broken() -> Iterator[Adapted]:
    adapted = adapt("lora", frozen("llama"), BASE)
    with torch.no_grad():
        next(iter(trained(adapted.model).values())).fill_(math.nan)
    yield adapted


def test_a_loss_that_is_no_number_stops_the_training(broken: Adapted, tmp_path: Path) -> None:
    log = Log()
    with pytest.raises(TrainingDiverged, match=r"the training loss is nan at step 1, in the micro batch"):
        run(broken, tmp_path, log)
    assert log == [] and not (tmp_path / "adapter").exists()


def test_a_loss_that_is_no_number_names_its_examples_before_it_reaches_a_weight(tmp_path: Path) -> None:
    model = frozen("llama")
    model.get_input_embeddings().weight[31] = math.nan
    examples = Examples(24)
    for number, row in enumerate(examples):
        row["input_ids"] = [31 if number == 17 else min(token, 30) for token in row["input_ids"]]
    adapted = adapt("lora", model, BASE)
    with pytest.raises(
        TrainingDiverged, match=r"loss is nan at step \d+, in the micro batch of .* rows (17, \d+|\d+, 17) "
    ):
        run(adapted, tmp_path, examples=examples)
    assert all(parameter.isfinite().all() for parameter in trained(adapted.model).values())


@pytest.mark.parametrize("step", [4, 12], ids=["a step that is saved", "the last step"])
@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_a_gradient_that_is_no_number_reaches_neither_a_weight_nor_a_checkpoint(
    step: int, clip: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loss is one; gradients are broken in the second micro batch of a step."""
    adapted, passes = adapt("lora", frozen("llama"), BASE), [0]

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        passes[0] += 1
        return gradient * math.nan if passes[0] == 2 * step else gradient

    next(iter(trained(adapted.model).values())).register_hook(spoil)

    def unclipped(*args: Any, **options: Any) -> TrainingArguments:
        arguments = trainer_arguments(*args, **options)
        arguments.max_grad_norm = clip
        return arguments

    monkeypatch.setattr("spectral_ft.training.train.trainer_arguments", unclipped)
    sentence = rf"^the norm of the gradient is nan at step {step}, in the batch of training rows \d+, \d+, \d+, \d+ "
    with pytest.raises(TrainingDiverged, match=sentence):
        run(adapted, tmp_path)
    assert all(parameter.isfinite().all() for parameter in trained(adapted.model).values())
    assert not (tmp_path / "adapter").exists() and not (tmp_path / "checkpoints" / f"checkpoint-{step}").exists()
    whole = last_checkpoint(tmp_path / "checkpoints", ORIGIN)
    assert (whole and whole.name) == (None if step == 4 else "checkpoint-8")


def test_a_fault_names_rows_of_the_data_and_nothing_that_fills_a_batch(broken: Adapted, tmp_path: Path) -> None:
    sampler = [*range(3), FILL] * 3
    options: dict[str, Any] = {"examples": Examples(12), "sampler": sampler, "micro_batch_size": 4}
    with pytest.raises(
        TrainingDiverged, match=r"of training rows 100 \(a\), 101 \(b\), 102 \(c\) \(counted from 0\): "
    ):
        run(broken, tmp_path, named=lambda place: f"{100 + place} ({'abc'[place]})", **options)
    options |= {"sampler": [0] * 40, "batch_size": 20, "micro_batch_size": 20, "examples": Examples(40)}
    with pytest.raises(TrainingDiverged, match=r"of training rows (0, ){15}0 and 4 more \(counted from 0\): "):
        run(broken, tmp_path, **options)


# ---- how far backward goes


def lowest(block: int) -> Adapted:
    """LoRA on one matrix of a block of a model of four."""
    model = frozen("llama", num_hidden_layers=4)
    base = seen(model)
    plan = lora().plan(
        tuple(
            MatrixAllocation(m.name, 2, 4.0) if m.block >= block else MatrixAllocation(m.name, 0, 0.0)
            for m in base.matrices
        ),
        base,
    )
    return lora().adapt(model, plan, base=base, steps=4, probe=None)


@pytest.mark.parametrize("block", [0, 2, 3])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_backward_stops_at_the_lowest_adapter(
    block: int, checkpointing: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    adapted, passes = lowest(block), [0] * 4
    for number, layer in enumerate(adapted.model.get_base_model().model.layers):  # type: ignore[operator]

        def count(*_: object, number: int = number) -> None:
            passes[number] += torch.is_grad_enabled()

        layer.mlp.register_forward_pre_hook(count)
    run(adapted, tmp_path, activation_checkpointing=checkpointing, max_steps=2)
    assert f"backward runs through {4 - block} of 4 blocks, from model.layers.{block} up" in caplog.text
    assert passes == [2 * 2 * (2 if checkpointing and number >= block else 1) for number in range(4)]


# ---- looks at the validation loss


class Losses:
    """The losses of a validation that is planned."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def __call__(self) -> float:
        return self.values.pop(0)


def test_training_stops_where_the_validation_loss_no_longer_falls(tmp_path: Path) -> None:
    log = Log()
    looks = Losses(3.0, 2.0, 2.5, 2.0, 1.0)
    options = {"validation_steps": 2, "early_stopping": 2, "validation_loss": looks}
    outcome = run(adapt("lora", frozen("llama"), BASE), tmp_path, log, max_steps=12, **options)
    assert outcome.steps == 8 and looks.values == [1.0]
    assert [row["validation_loss"] for row in log if "validation_loss" in row] == [3.0, 2.0, 2.5, 2.0]
    assert outcome.best_step is None


def test_the_best_weights_are_kept_through_a_cut(tmp_path: Path) -> None:
    options = {"validation_steps": 2, "keep_best": True, "max_steps": 8, "save_steps": 4}
    short = adapt("lora", frozen("llama"), BASE)
    run(short, tmp_path / "short", max_steps=8, save_steps=2, log=Log())
    best = {}
    adapted = adapt("lora", frozen("llama"), BASE)

    def noted() -> float:
        best[len(best)] = {name: parameter.detach().clone() for name, parameter in trained(adapted.model).items()}
        return [3.0, 1.0, 2.0, 2.5][len(best) - 1]

    outcome = run(adapted, tmp_path / "whole", validation_loss=noted, **options)
    assert outcome.best_step == 4
    for name, parameter in trained(adapted.model).items():
        assert torch.equal(parameter, best[1][name]) and not torch.equal(parameter, best[3][name])
    with pytest.raises(Cut):
        cut = adapt("lora", frozen("llama"), BASE)
        run(cut, tmp_path / "cut", Log(cut=6), validation_loss=Losses(3.0, 1.0, 2.0), **options)
    again = adapt("lora", frozen("llama"), BASE)
    resume = last_checkpoint(tmp_path / "cut" / "checkpoints", ORIGIN)
    assert resume is not None and resume.name == "checkpoint-4"
    outcome = run(again, tmp_path / "cut", validation_loss=Losses(2.0, 2.5), resume=resume, **options)
    assert outcome.best_step == 4
    for name, parameter in trained(again.model).items():
        assert torch.equal(parameter, best[1][name])


@pytest.mark.parametrize(("best", "interval"), [(1, 4), (2, 4), (3, 4), (2, 1)])
def test_the_best_weights_of_adalora_are_saved_as_they_were_kept(best: int, interval: int, tmp_path: Path) -> None:
    """Before anything is masked, at a masking, and between two, where what was masked has grown again."""
    options = {"validation_steps": 2, "keep_best": True, "max_steps": 12, "save_steps": 4, "learning_rate": 3e-2}

    def start() -> Adapted:
        method = adalora(factor=2.0, interval=interval)
        return adapt("adalora", frozen("llama"), BASE, method=method, steps=12)

    looks, adapted = [float(number != best) for number in range(1, 7)], start()
    said: list[torch.Tensor] = []

    def look() -> float:
        said.append(logits(adapted.model.eval()))
        adapted.model.train()
        return looks[len(said) - 1]

    run(adapted, tmp_path / "whole", validation_loss=look, **options)
    kept, opened = logits(adapted.model.eval()), logits(open_adapter(frozen("llama"), tmp_path / "whole" / "adapter"))
    assert torch.equal(kept, said[best - 1]) and not torch.equal(kept, said[-1])
    torch.testing.assert_close(opened, kept, rtol=1e-5, atol=1e-6)
    with pytest.raises(Cut):
        run(start(), tmp_path / "cut", Log(cut=11), validation_loss=Losses(*looks), **options)
    again, resume = start(), last_checkpoint(tmp_path / "cut" / "checkpoints", ORIGIN)
    assert resume is not None and resume.name == "checkpoint-8"
    run(again, tmp_path / "cut", validation_loss=Losses(*looks[4:]), resume=resume, **options)
    assert torch.equal(logits(again.model.eval()), kept)
    assert torch.equal(logits(open_adapter(frozen("llama"), tmp_path / "cut" / "adapter")), opened)


def test_adalora_that_stops_between_two_maskings_is_saved_as_it_is(tmp_path: Path) -> None:
    method = adalora(factor=2.0, interval=5)
    adapted = adapt("adalora", frozen("llama"), BASE, method=method, steps=40)
    options = {"validation_steps": 3, "early_stopping": 1, "max_steps": 40, "learning_rate": 3e-2}
    assert run(adapted, tmp_path, validation_loss=Losses(*range(5)), **options).steps == 6
    kept = logits(adapted.model.eval())
    torch.testing.assert_close(logits(open_adapter(frozen("llama"), tmp_path / "adapter")), kept, rtol=1e-5, atol=1e-6)


def test_looks_at_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"training\.validation_steps=2 looks at validation examples, and there are none"
    ):
        run(adapt("lora", frozen("llama"), BASE), tmp_path, validation_steps=2)
    with pytest.raises(ConfigError, match=r"training\.early_stopping=3 needs looks .* set training\.validation_steps"):
        replace(SETTINGS, early_stopping=3)
    with pytest.raises(ConfigError, match=r"training\.keep_best=true needs looks"):
        replace(SETTINGS, keep_best=True)


# ---- somebody asks it to stop


class Asks(Log):
    """Sends a signal when the row of a step comes."""

    def __init__(self, step: int, number: int) -> None:
        super().__init__()
        self.step, self.number = step, number

    def __call__(self, row: dict[str, Any]) -> None:
        super().__call__(row)
        if row["step"] == self.step:
            signal.raise_signal(self.number)


@pytest.fixture
def terminal() -> Iterator[None]:
    """Signals as in a terminal, also if the tests run under `nohup` or in the background of a script."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL), signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in zip((signal.SIGHUP, signal.SIGINT), before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_leaves_a_checkpoint_and_the_same_weights_after_it(number: int, tmp_path: Path) -> None:
    whole, cut, again = (adapt("lora", frozen("llama"), BASE) for _ in range(3))
    run(whole, tmp_path / "whole", max_steps=6, save_steps=100)
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(Interrupted, match=r"stopped after step 4 of 6, and checkpoint-4 is written: the same") as stop:
        run(cut, tmp_path / "cut", Asks(3, number), max_steps=6, save_steps=100)
    assert stop.value.number == number
    assert [signal.getsignal(each) for each in SIGNALS] == before
    assert not (tmp_path / "cut" / "adapter").exists()
    resume = last_checkpoint(tmp_path / "cut" / "checkpoints", ORIGIN)
    run(again, tmp_path / "cut", resume=resume, max_steps=6, save_steps=100)
    for name, parameter in trained(whole.model).items():
        assert torch.equal(trained(again.model)[name], parameter)


@pytest.mark.usefixtures("terminal")
def test_a_closed_terminal_does_not_stop_what_runs_under_nohup(tmp_path: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    found = run(adapt("lora", frozen("llama"), BASE), tmp_path, Asks(2, signal.SIGHUP), max_steps=4)
    assert found.steps == 4 and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize("after", ["the last step", "patience"])
def test_a_training_that_had_ended_takes_no_further_step(after: str, tmp_path: Path) -> None:
    """Cut between its last checkpoint and its record."""
    options: dict[str, Any] = {"max_steps": 8, "save_steps": 4}
    if after == "patience":
        options |= {"max_steps": 12, "validation_steps": 4, "early_stopping": 1}
    looks = [2.0, 3.0]
    whole, again = (adapt("lora", frozen("llama"), BASE) for _ in range(2))
    expected = run(whole, tmp_path, validation_loss=Losses(*looks), **options)
    resume = last_checkpoint(tmp_path / "checkpoints", ORIGIN)
    assert resume is not None and resume.name == "checkpoint-8"
    log = Log()
    found = run(again, tmp_path, log, resume=resume, validation_loss=Losses(), **options)
    assert (found.steps, found.final_loss, found.tokens) == (8, expected.final_loss, expected.tokens)
    assert log == []
    for name, parameter in trained(whole.model).items():
        assert torch.equal(trained(again.model)[name], parameter)


# ---- what the Trainer is told


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"use_liger_kernels": True}, r"use_liger_kernels is no option of the Trainer: did you mean use_liger_kernel"),
        (
            {"neftune_noise_alpha": 5.0, "zzz": 1},
            r"training\.trainer_options\.zzz is no option of the Trainer: see the",
        ),
        (
            {"fp16": True, "bf16": True},
            r"the Trainer refuses these training options",
        ),
    ],
)
def test_a_trainer_option_that_is_none_is_refused(options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        run(adapt("lora", frozen("llama"), BASE), tmp_path, trainer_options=options)


SET_HERE = (
    *("learning_rate", "save_total_limit", "logging_first_step", "logging_nan_inf_filter", "disable_tqdm", "seed"),
    *("include_num_input_tokens_seen", "report_to", "output_dir", "gradient_accumulation_steps"),
)
BREAKING = (
    *("save_only_model", "auto_find_batch_size", "ignore_data_skip", "fsdp", "fsdp_config", "deepspeed"),
    *("gradient_checkpointing", "num_train_epochs", "load_best_model_at_end", "resume_from_checkpoint"),
)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        *((option, "would override an option of this stage: set the one") for option in SET_HERE),
        *((option, "would change what checkpoints, resuming or batches here rely on") for option in BREAKING),
    ],
)
def test_a_trainer_option_that_must_be_ours_is_refused(option: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=rf"^training\.trainer_options\.{option} {sentence}"):
        replace(SETTINGS, trainer_options={option: 1})


def test_every_option_that_is_kept_here_is_one_of_the_trainer() -> None:
    known = {field.name for field in fields(TrainingArguments)}
    own = SETTINGS.own_arguments(steps=1, seed=0, folder="", processes=1).keys()
    assert not (own | RELIED_ON) - known and not own & RELIED_ON


def test_smoothed_labels_need_logits(tmp_path: Path) -> None:
    smoothed = {"trainer_options": {"label_smoothing_factor": 0.1}}
    with pytest.raises(ConfigError, match=r"label_smoothing_factor needs the logits, which training\.fused_loss=true"):
        replace(SETTINGS, **smoothed)
    log = Log()
    run(adapt("lora", frozen("llama"), BASE), tmp_path, log, max_steps=1, fused_loss=False, **smoothed)
    assert 3 < log[0]["loss"] < 4


def test_a_trainer_option_is_passed_through(tmp_path: Path) -> None:
    plain, noisy = (adapt("lora", frozen("llama"), BASE) for _ in range(2))
    run(plain, tmp_path / "plain", max_steps=2)
    run(noisy, tmp_path / "noisy", max_steps=2, trainer_options={"neftune_noise_alpha": 5.0})
    assert any(
        not torch.equal(parameter, trained(noisy.model)[name]) for name, parameter in trained(plain.model).items()
    )


@pytest.mark.parametrize("asked", [False, True])
def test_products_are_in_16_bits_where_that_was_asked_and_not_where_a_gpu_could(
    asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    options = {"use_cpu": True, "dataloader_pin_memory": False}
    told = {"steps": 1, "seed": 0, "folder": tmp_path, **({"bf16": True} if asked else {})}
    assert trainer_arguments(replace(SETTINGS, trainer_options=options), **told).bf16 is asked


@pytest.mark.parametrize(("processes", "accumulated"), [(1, 2), (2, 1)])
def test_the_batch_is_divided_among_processes(processes: int, accumulated: int) -> None:
    assert SETTINGS.accumulation(processes) == accumulated


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"batch_size=4 cannot be divided among 3 processes in micro batches of 2: .* of 6"
    ):
        SETTINGS.accumulation(3)


def test_the_seed_decides_the_order_of_the_examples(tmp_path: Path) -> None:
    logs = []
    for number, seed in enumerate((3, 3, 4)):
        logs.append(log := Log())
        run(
            adapt("lora", frozen("llama"), BASE),
            tmp_path / str(number),
            log,
            seed=seed,
            max_steps=3,
            learning_rate=1e-9,
        )
    losses = [[row["loss"] for row in log] for log in logs]
    assert losses[0] == losses[1] != losses[2]
