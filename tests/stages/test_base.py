"""How the base is loaded; oracles: the modules that are there, weak references."""

import gc
import logging
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from spectral_ft.errors import ConfigError
from spectral_ft.identity import run_id
from spectral_ft.models.dequantized import is_packed, on_cpu
from spectral_ft.pipeline import run
from spectral_ft.stages import base as stage
from spectral_ft.stages.allocation import plan_of
from spectral_ft.stages.base import HeldBase, base_model, load_base
from spectral_ft.stages.losses import ROWS_ON_GPU, ROWS_PACKED, rows_at_a_time
from spectral_ft.stages.reading import what_plans_read
from spectral_ft.stages.training import train_adapter
from tests.test_compose import built

GIB = 2**30


def loaded(*options: str) -> Any:
    experiment = built("model=tiny", *options)
    return load_base(experiment, experiment.model.locate())


# ---- quantization.on_cpu


@pytest.mark.parametrize("packing", ["nf4", "int8"])
@pytest.mark.parametrize(
    ("asked", "free", "packed"),
    [("null", 64, False), ("null", 0.01, True), ("packed", 64, True), ("dequantize_once", 0.01, False)],
)
def test_memory_decides_unless_the_user_does(
    packing: str,
    asked: str,
    free: float,
    packed: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "spectral_ft")
    monkeypatch.setattr(stage, "free_memory", lambda device: int(free * GIB))
    model = loaded(f"quantization={packing}", f"quantization.on_cpu={asked}")
    assert is_packed(model) == packed
    assert on_cpu(model) == ("packed" if packed else "dequantize_once")
    chosen = f"quantization.on_cpu={'packed' if packed else 'dequantize_once'}"
    assert [line for line in caplog.messages if chosen in line and f"{free:.1f} GiB are free" in line]


def test_a_base_in_its_own_precision_is_not_asked(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "spectral_ft")
    model = loaded("quantization=none")
    assert not is_packed(model) and on_cpu(model) is None and "on_cpu" not in caplog.text


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"quantization\.on_cpu"):
        built("model=tiny", "quantization=nf4", "quantization.on_cpu=once")


def test_it_is_no_part_of_a_run_s_identity() -> None:
    one, other = (
        run_id({"quantization": {"_target_": "spectral_ft.models.quantization.Nf4", **more}})
        for more in ({}, {"on_cpu": "packed"})
    )
    assert one == other


def test_the_label_of_records_stays() -> None:
    labels = {
        built("model=tiny", "quantization=nf4", f"quantization.on_cpu={word}").quantization.label
        for word in ("null", "packed", "dequantize_once")
    }
    assert labels == {"nf4-double"}


# ---- rows of the held-out losses


def test_rows_at_a_time_follow_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, packed = loaded("quantization=none"), loaded("quantization=nf4", "quantization.on_cpu=packed")
    assert rows_at_a_time(plain, length=64, micro_batch_size=4) == 4
    assert rows_at_a_time(packed, length=64, micro_batch_size=4) == ROWS_PACKED
    assert rows_at_a_time(packed, length=64, micro_batch_size=32) == 32
    monkeypatch.setattr(type(plain), "device", torch.device("cuda", 0))
    for free, expected in ((64 * GIB, ROWS_ON_GPU), (0, 4)):
        monkeypatch.setattr("spectral_ft.stages.losses.free_memory", lambda device, free=free: free)
        assert rows_at_a_time(plain, length=64, micro_batch_size=4) == expected


# ---- one holder of the base


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list["weakref.ref[Any]"]:
    """Weak references to every base that is loaded; when one is, no other may be alive."""
    seen: list[weakref.ref[Any]] = []

    def load(*given: Any) -> Any:
        assert not [each for each in seen if each() is not None], "two bases are alive"
        seen.append(weakref.ref(model := load_base(*given)))
        return model

    monkeypatch.setattr(stage, "load_base", load)
    return seen


def state(model: Any) -> dict[str, Any]:
    """Everything of a model: names and bits of its tensors, types and attributes of its modules."""
    return {
        "tensors": {
            name: (tensor.requires_grad, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()
        },
        "modules": {name: (type(module), sorted(vars(module))) for name, module in model.named_modules()},
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "modes": [module.training for module in model.modules()],
        "config": dict(vars(model.config)),
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    pairs = zip(one["tensors"].items(), other["tensors"].items(), strict=True)
    alike = all(a == b and r == s and torch.equal(x, y) for (a, (r, x)), (b, (s, y)) in pairs)
    return alike and all(one[key] == other[key] for key in one if key != "tensors")


KEEPING = [
    ["method=lora"],
    ["method=dora"],
    ["method=adalora", "method.tinit=0.0", "method.tfinal=0.3", "method.interval=1"],
    ["method=ia3"],
    ["method=prefix"],
    ["method=ln_tuning"],
    ["method=adapter_s"],
    ["method=adapter_p"],
    ["method=lora", "quantization=nf4"],
    ["method=lora", "quantization=int8", "quantization.on_cpu=packed"],
    ["method=lora", "training.activation_checkpointing=true"],
]
SHORT = (
    *("model=tiny", "training.max_steps=4", "training.warmup_steps=1", "training.batch_size=4"),
    *("training.micro_batch_size=4", "dataset.limit=16", "dataset.validation=4", "benchmark.limit=2"),
    *("benchmark.cache=false", "probe.batches=1", "drift=default", "drift.top=2", "figures=false"),
    "tracking.mode=disabled",
)


@pytest.mark.parametrize("options", [["method=sgm", "quantization=nf4"], ["method=full"]], ids=" ".join)
def test_a_run_loads_its_base_once_or_says_why_not(
    options: list[str], loads: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "spectral_ft")
    result = run(built(*SHORT, *options), tmp_path)
    assert result is not None and {score.stage for score in result.scores} == {"base", "tuned"}
    changes = options == ["method=full"]
    assert len(loads) == 1 + changes and ("loads it again" in caplog.text) == changes
    gc.collect()
    assert not [each for each in loads if each() is not None]  # freed with the run


@pytest.mark.parametrize("options", KEEPING, ids=" ".join)
def test_after_a_training_the_base_is_what_it_was(options: list[str], tmp_path: Path) -> None:
    experiment = built(*SHORT, *options)
    checkpoint = experiment.model.locate()
    held = HeldBase(experiment, checkpoint)
    report, probe = what_plans_read(experiment, checkpoint, parts=[experiment.parts], folder=tmp_path, held=held)
    with torch.no_grad():
        held.model(torch.arange(4, 12)[None])  # 8-bit modules arrange themselves at the first product
    before, model = state(held.model), held.model
    base = base_model(experiment, checkpoint, tuple(spectrum.matrix for spectrum in report.matrices))
    plan = plan_of(experiment.parts, base, report, probe)
    train_adapter(
        experiment, checkpoint, plan, base=base, report=report, probe=probe, folder=tmp_path, log_row=lambda row: None,
        held=held,
    )  # fmt: skip
    assert held.model is model and same(before, state(held.model))


def test_a_weight_that_is_written_into_is_noticed_whoever_does_it(loads: list[Any], tmp_path: Path) -> None:
    experiment = built("model=tiny")
    held = HeldBase(experiment, experiment.model.locate())
    right = held.model.model.norm.weight.clone()
    with suppress(KeyError), held.lent() as model, torch.no_grad():
        model.model.norm.weight.add_(1)
        raise KeyError  # what a failed stage has changed is noticed too
    del model
    assert torch.equal(held.model.model.norm.weight, right) and len(loads) == 2
    with held.lent() as model:
        model.model.norm.weight.data = right + 1
    del model
    assert held.model is not None and len(loads) == 3


def test_a_base_that_nothing_changed_stays(loads: list[Any]) -> None:
    experiment = built("model=tiny")
    held = HeldBase(experiment, experiment.model.locate())
    with held.lent() as model:
        model.train().requires_grad_(True)
        model(torch.arange(4, 12)[None]).logits.sum().backward()
        model.config.use_cache = False
    assert held.model is model and len(loads) == 1
    assert not model.training and model.config.use_cache
    assert not [p for p in model.parameters() if p.requires_grad or p.grad is not None]


def test_on_a_gpu_caches_are_emptied_between_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, emptied = built("model=tiny"), []
    held = HeldBase(experiment, experiment.model.locate())
    assert held.model is not None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    assert held.model is not None and len(emptied) == 1
    held.release()
    assert len(emptied) == 2
