"""The memory that `plan` tells; oracles: bytes counted by hand, and what must not change."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GraniteConfig, LlamaConfig, MixtralConfig

from spectral_ft.stages.allocation import plan_of
from spectral_ft.stages.base import base_model
from spectral_ft.stages.planning import estimated_memory, other_plan
from spectral_ft.stages.reading import what_plans_read
from spectral_ft.storage import write_json
from spectral_ft.training import footprint
from spectral_ft.types import AllocationPlan, MatrixAllocation
from tests.test_compose import built

UNIFORM, BASE, IN_BLOCKS = 116_736, 1_803_072, 28 // 7 * (4 * 192 * 192 + 3 * 192 * 512)
"""Parameters of the embedded model: of LoRA with rank 8 on everything, of all, and of the matrices in its blocks."""


@cache
def memory(*options: str) -> dict[str, int] | None:
    experiment = built(*options)
    checkpoint = experiment.model.locate()
    with tempfile.TemporaryDirectory() as folder:
        report, probe = what_plans_read(experiment, checkpoint, parts=[experiment.parts], folder=Path(folder))
    base = base_model(experiment, checkpoint, tuple(spectrum.matrix for spectrum in report.matrices))
    return estimated_memory(experiment, plan_of(experiment.parts, base, report, probe), base, probe)


def known(*options: str) -> dict[str, int]:
    found = memory(*options)
    assert found is not None
    return found


def test_what_can_be_counted_is_counted() -> None:
    found = known()
    assert list(found) == ["base", "adapters", "gradients", "optimizer", "activations"]
    assert found["base"] == 4 * BASE
    assert found["adapters"] == found["gradients"] == 4 * UNIFORM
    assert found["optimizer"] == 8 * UNIFORM
    assert found["activations"] > 16 * 128 * 192 * 4  # the hidden state alone


@pytest.mark.parametrize(("optimizer", "per_parameter"), [("sgd", 0), ("paged_adamw_8bit", 2), ("lion_32bit", 4)])
def test_the_optimizers_state_goes_by_its_name(optimizer: str, per_parameter: int) -> None:
    found = known(f"training.optimizer={optimizer}")
    assert found["optimizer"] == per_parameter * UNIFORM
    assert {part: size for part, size in found.items() if part != "optimizer"} == {
        part: size for part, size in known().items() if part != "optimizer"
    }


def test_a_quantized_base_is_counted_at_its_bits() -> None:
    found = known("quantization=nf4")
    assert found["base"] == pytest.approx(4 * (BASE - IN_BLOCKS) + IN_BLOCKS * 4.127 / 8, rel=1e-3)
    assert found["adapters"] == known()["adapters"]


def test_activations_grow_with_the_batch_and_shrink_where_they_are_recomputed() -> None:
    small, large = (known(f"training.micro_batch_size={size}")["activations"] for size in (4, 16))
    assert large == pytest.approx(4 * small, rel=0.1)
    assert known("training.activation_checkpointing=true")["activations"] < 0.6 * large


def test_activation_checkpointing_is_as_the_method_says() -> None:
    uniform = ("method=alors", "rank_policy=uniform")
    assert known(*uniform) == known("training.activation_checkpointing=true")
    assert known(*uniform, "training.activation_checkpointing=false") == known()


def test_whole_matrices_add_no_adapters() -> None:
    found = known("method=spectrum", "rank_policy=uniform")
    assert (found["base"], found["adapters"]) == (4 * BASE, 0)
    assert found["gradients"] == 4 * IN_BLOCKS and found["optimizer"] == 8 * IN_BLOCKS


def test_shared_factors_are_held_once() -> None:
    options = ("method=sgm", "grouping.similarity=snr", "grouping.snr_threshold=1.0", "rank_policy.top_fraction=1.0")
    assert known(*options)["adapters"] == 4 * UNIFORM // 4


@pytest.mark.parametrize(("dtype", "expected"), [("float32", None), ("bfloat16", torch.bfloat16)])
def test_the_estimate_mixes_precisions_where_training_does(
    dtype: str, expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, estimate = [], footprint.estimate_footprint

    def noted(*args: Any, **options: Any) -> Any:
        told.append(options["autocast"])
        return estimate(*args, **options)

    monkeypatch.setattr("spectral_ft.models.device.compute_device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(footprint, "estimate_footprint", noted)
    memory.__wrapped__(f"model.dtype={dtype}")
    assert told == [expected]


def test_without_training_there_is_nothing_to_estimate() -> None:
    assert memory("method=none") is None


def test_another_plan_is_read(tmp_path: Path) -> None:
    plan = AllocationPlan((MatrixAllocation("a", 2, 4.0),), 10, 10, 100)
    write_json(tmp_path / "plan.json", plan)
    assert other_plan(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(("scale", "fused"), [(1.0, False), (None, True)])
def test_a_model_that_does_more_than_its_head_keeps_its_logits(
    scale: float | None, fused: bool, tmp_path: Path
) -> None:
    sizes = {"vocab_size": 4096, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    kind, more = (GraniteConfig, {"logits_scaling": scale}) if scale else (LlamaConfig, {})
    kind(**sizes, num_attention_heads=4, num_key_value_heads=2, **more).save_pretrained(tmp_path)
    options = ("model=hf", f"model.path={tmp_path}", "dataset.max_length=64")
    own, asked = (
        known(*options, f"training.fused_loss={choice}", "model.dtype=float32")["activations"]
        for choice in ("false", "true")
    )
    assert (asked < 0.7 * own) if fused else (asked == own)


def mixtral(folder: Path) -> Path:
    sizes = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 24, "num_hidden_layers": 2}
    MixtralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, num_local_experts=3).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_experts_that_are_not_adapted_are_in_no_ones_way(quantization: str, tmp_path: Path) -> None:
    options = ("rank_policy.target_modules=[q_proj]", "rank_policy.rank=2", f"quantization={quantization}")
    found = known("model=hf", f"model.path={mixtral(tmp_path)}", "dataset.max_length=16", *options)
    assert found["adapters"] == 4 * 2 * 2 * (8 + 8)


def test_what_the_spectrum_leaves_out_is_quantized_all_the_same() -> None:
    assert known("quantization=nf4", "spectrum.include=q_proj")["base"] == known("quantization=nf4")["base"]
