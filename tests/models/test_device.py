"""Device and number format; oracles: the compute capabilities of real GPUs, dtypes that are seen in a forward pass."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from spectral_ft.errors import CheckpointError, OutOfMemory
from spectral_ft.evaluation.batching import LARGEST, LARGEST_ON_GPU, largest_batch
from spectral_ft.models import device as place
from spectral_ft.models import loading
from spectral_ft.models.device import autocast, autocast_dtype, compute_device, is_out_of_memory, resolve_dtype
from spectral_ft.models.loading import load_model
from spectral_ft.models.quantization import Unquantized
from spectral_ft.stages import probe as probe_stage
from spectral_ft.stages.reading import what_plans_read
from spectral_ft.training.held_out import mean_loss
from tests.conftest import EMBEDDED
from tests.test_compose import built

GPU = torch.device("cuda", 0)
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
MACHINE = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


@pytest.fixture(autouse=True)
def told_anew() -> Iterator[None]:
    place._tell_of_float16.cache_clear()
    yield
    place._tell_of_float16.cache_clear()


def gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")


@pytest.mark.parametrize("index", [0, 3])
def test_a_process_uses_its_own_gpu_by_its_index(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate refuses a packed model whose device has no index when several processes train."""
    assert compute_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: index)
    assert (compute_device().type, compute_device().index) == ("cuda", index)


@pytest.mark.parametrize(
    ("dtype", "capability", "weights", "products"),
    [
        ("auto", (7, 0), torch.float16, torch.float16),  # V100
        ("auto", (7, 5), torch.float16, torch.float16),  # T4
        ("auto", (8, 0), torch.bfloat16, torch.bfloat16),  # A100
        ("auto", (9, 0), torch.bfloat16, torch.bfloat16),  # H100
        ("bfloat16", (8, 6), torch.bfloat16, torch.bfloat16),
        ("bfloat16", (7, 5), torch.bfloat16, None),
        ("float16", (9, 0), torch.float16, torch.float16),
        ("float32", (7, 5), torch.float32, None),
        ("float32", (9, 0), torch.float32, None),
        ("auto", None, torch.float32, None),
        ("bfloat16", None, torch.bfloat16, None),
    ],
)
def test_the_format_is_one_that_the_device_multiplies(
    dtype: Any,
    capability: tuple[int, int] | None,
    weights: torch.dtype,
    products: torch.dtype | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "spectral_ft")
    where = GPU if capability else torch.device("cpu")
    gpu(monkeypatch, capability or (0, 0))
    for _ in range(2):
        assert (resolve_dtype(dtype, where), autocast_dtype(dtype, where)) == (weights, products)
    assert caplog.text.count("model.dtype=auto is float16") == (dtype == "auto" and weights == torch.float16)


def test_held_out_losses_compute_adapters_as_training_does() -> None:
    seen: list[torch.dtype] = []
    base = load_model(EMBEDDED, quantization=Unquantized(), dtype="bfloat16", trust_remote_code=False)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["down_proj"]))
    module: Any = model.get_base_model().get_submodule("model.layers.0.mlp.down_proj.lora_B.default")
    module.register_forward_hook(lambda module, given, made: seen.append(made.dtype))
    rows = [{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}]

    def batch(some: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {key: torch.tensor([row[key] for row in some]) for key in some[0]}

    for mixed in (None, torch.bfloat16):
        with autocast(mixed, torch.device("cpu")):
            mean_loss(model, rows, batch, batch_size=1)
    assert module.weight.dtype == torch.float32 and seen == [torch.float32, torch.bfloat16]


def test_more_items_at_a_time_on_a_gpu() -> None:
    assert (largest_batch(torch.device("cpu")), largest_batch(GPU)) == (LARGEST, LARGEST_ON_GPU) == (32, 256)


# ---- memory that ends


def test_what_is_the_end_of_memory() -> None:
    assert all(map(is_out_of_memory, (CUDA, MACHINE, MemoryError(), RuntimeError("CUDA out of memory. x"))))
    assert not any(map(is_out_of_memory, (RuntimeError("size mismatch"), ValueError("CUDA out of memory"))))


@pytest.mark.parametrize("error", [CUDA, MACHINE, MemoryError("x")])
def test_a_model_that_does_not_fit_is_told_with_a_way_out(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(loading.LOADERS["causal_lm"], "from_pretrained", full)
    with pytest.raises(OutOfMemory, match=r"billion parameters .*quantization=nf4"):
        load_model(EMBEDDED, quantization=Unquantized(), dtype="auto", trust_remote_code=False)


def test_another_fault_of_loading_stays_one_of_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*args: Any, **options: Any) -> None:
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(loading.LOADERS["causal_lm"], "from_pretrained", damaged)
    with pytest.raises(CheckpointError, match="size mismatch"):
        load_model(EMBEDDED, quantization=Unquantized(), dtype="auto", trust_remote_code=False)


@pytest.mark.parametrize("error", [CUDA, MACHINE])
def test_the_end_of_memory_in_the_probe_names_its_options(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("spectral_ft.probe.gradients.probe_gradients", full)
    experiment = built("model=tiny", "rank_policy=gradient", "probe.batch_size=3", "dataset.limit=64")
    with pytest.raises(OutOfMemory, match=r"probe\.batch_size=3 .* 128 tokens.*quantization=nf4"):
        what_plans_read(experiment, experiment.model.locate(), parts=[experiment.parts], folder=tmp_path)
    assert not (tmp_path / "probe.safetensors").exists() and probe_stage is not None
