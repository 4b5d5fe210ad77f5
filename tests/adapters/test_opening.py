"""What was trained, saved and put on a fresh base; oracles: the logits of the model that was saved."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from spectral_ft.adapters.opening import CONFIG, form_of, open_adapter
from spectral_ft.errors import CheckpointError, PlanError
from spectral_ft.methods.seam import Adapted
from spectral_ft.models.loading import load_model
from spectral_ft.models.quantization import Int8, Nf4
from tests.conftest import EMBEDDED, edit_json
from tests.methods.small_bases import LORA_FAMILY, METHODS, adapt, batch_for, frozen, logits, moved, seen, trained

WEIGHTS = "adapter_model.safetensors"
FORMS = {"ia3": "IA3", "ln_tuning": "LN_TUNING", "prefix": "PREFIX_TUNING", "adalora": "ADALORA"}
FORMS |= dict.fromkeys(("adapter_s", "adapter_p"), "BOTTLENECK") | dict.fromkeys(("spectrum", "full"), "TENSORS")
FORMS |= dict.fromkeys(("lora", "rslora", "dora", "eva"), "LORA")
PACKED = {"nf4": Nf4(double_quantization=True), "int8": Int8(threshold=6.0)}
BEYOND_LLAMA = [
    (name, model_type)
    for model_type in ("bert", "t5")
    for name in (*LORA_FAMILY, "ia3", "prefix", "spectrum", "full", "ln_tuning")
    if (name, model_type) != ("ln_tuning", "bert")
]


def base_of(model_type: str, **sizes: object) -> PreTrainedModel:
    blocks = {"llama": {"num_hidden_layers": 4}}.get(model_type, {})  # PEFT shortens the names of over 20 targets
    return frozen(model_type, **blocks | sizes)


def saved(name: str, folder: Path, model_type: str = "llama") -> Adapted:
    """Adapted, moved away from its start, and written."""
    adapted = adapt(name, base_of(model_type))
    moved(adapted.model)
    adapted.save(folder)
    return adapted


@pytest.mark.parametrize(("name", "model_type"), [(name, "llama") for name in METHODS] + BEYOND_LLAMA)
def test_what_was_saved_opens_with_the_same_logits(name: str, model_type: str, tmp_path: Path) -> None:
    adapted = saved(name, tmp_path, model_type)
    assert form_of(tmp_path) == FORMS[name]
    opened = open_adapter(base_of(model_type).train(), tmp_path)
    assert not opened.training
    assert not trained(opened) or name == "prefix"  # which PEFT leaves trainable
    assert torch.equal(logits(opened), logits(adapted.model))
    assert not torch.allclose(logits(opened), logits(base_of(model_type)), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "packing"),
    [
        (name, packing)
        for name in (*LORA_FAMILY, "ia3", "prefix", "ln_tuning")
        for packing in PACKED
        if (name, packing) != ("dora", "int8") or torch.cuda.is_available()
    ],
)
def test_what_was_trained_on_a_packed_base_opens_on_it(name: str, packing: str, tmp_path: Path) -> None:
    adapted = adapt(name, packed_base(packing), seen(unpacked()))
    model = moved(adapted.model).train()
    loss = model(**batch_for(model)).loss
    loss.backward()
    assert torch.isfinite(loss)
    without = [name for name, p in trained(model).items() if p.grad is None or not p.grad.any()]
    assert without == []
    adapted.save(tmp_path)
    opened = open_adapter(packed_base(packing), tmp_path)
    assert torch.equal(logits(opened), logits(model.eval()))
    assert not torch.allclose(logits(opened), logits(packed_base(packing)), atol=1e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU it runs")
def test_dora_on_an_8_bit_base_on_a_cpu_is_refused() -> None:
    """PEFT's DoRA puts the weight back without its scales, and the second forward pass has none."""
    with pytest.raises(PlanError, match=r"PEFT's DoRA does not run on an 8-bit base on a CPU \(model\.layers\."):
        adapt("dora", packed_base("int8"), seen(unpacked()))


def packed_base(packing: str) -> PreTrainedModel:
    return load_model(EMBEDDED, quantization=PACKED[packing], dtype="float32", trust_remote_code=False)


def unpacked() -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(EMBEDDED)
    return model


# ---- what cannot be opened


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=r"holds no adapter: neither adapter_config.json nor trained"):
            open_adapter(base_of("llama"), folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"LORA"', "7", '{"peft_type": "LO', "\xff"])
def test_a_damaged_configuration_is_refused(text: str, tmp_path: Path) -> None:
    saved("lora", tmp_path)
    (tmp_path / CONFIG).write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=rf"{CONFIG} is damaged: "):
        open_adapter(base_of("llama"), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "NO_SUCH"},
        {"peft_type": None},
        {"peft_type": "ADALORA"},
        {"peft_type": "IA3"},
        {"r": "three"},
        {"r": 7},
        {"target_modules": 5},
        {"target_modules": ["v_proj"]},
    ],
)
def test_a_configuration_that_peft_does_not_take_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    saved("lora", tmp_path)
    edit_json(tmp_path / CONFIG, **change)
    with pytest.raises(CheckpointError, match="could not be put on this base model"):
        open_adapter(base_of("llama"), tmp_path)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    saved("lora", tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="could not be put on this base model"):
        open_adapter(base_of("llama"), tmp_path)


@pytest.mark.parametrize("length", [0, 40, -4])
@pytest.mark.parametrize("name", ["lora", "adalora", "prefix", "adapter_s", "spectrum"])
def test_truncated_weights_are_refused(name: str, length: int, tmp_path: Path) -> None:
    saved(name, tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=rf"{tmp_path}.* (could not be put on this base model|cannot be read): "):
        open_adapter(base_of("llama"), tmp_path)


OTHER_BASES: dict[str, Callable[[], PreTrainedModel]] = {
    "wider": lambda: base_of("llama", hidden_size=16, head_dim=4),
    "gpt2": lambda: base_of("gpt2"),
    "bert": lambda: base_of("bert"),
}


@pytest.mark.parametrize("other", OTHER_BASES)
@pytest.mark.parametrize("name", [*LORA_FAMILY, "ia3", "ln_tuning", "adapter_p", "spectrum", "full"])
def test_an_adapter_of_another_base_is_refused(name: str, other: str, tmp_path: Path) -> None:
    saved(name, tmp_path)
    with pytest.raises(CheckpointError, match=r"put on this base|trained on another|on which it was trained"):
        open_adapter(OTHER_BASES[other](), tmp_path)


@pytest.mark.parametrize("name", [*LORA_FAMILY, "ia3"])
def test_an_adapter_of_a_deeper_base_is_refused(name: str, tmp_path: Path) -> None:
    """PEFT itself leaves out what has no place."""
    saved(name, tmp_path)
    with pytest.raises(
        CheckpointError, match=r"could not be put on this base.*layers\.[23]\..* has no place in the base"
    ):
        open_adapter(base_of("llama", num_hidden_layers=2), tmp_path)


@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "ln_tuning", "adapter_s"])
def test_weights_that_lack_a_tensor_are_refused(name: str, tmp_path: Path) -> None:
    """PEFT itself starts what is missing anew."""
    saved(name, tmp_path)
    first, *others = (tensors := load_file(tmp_path / WEIGHTS))
    save_file({key: tensors[key] for key in others}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=rf"{re.escape(first)} is missing from"):
        open_adapter(base_of("llama"), tmp_path)


@pytest.mark.parametrize("name", ["lora", "adalora", "adapter_s"])
def test_weights_of_something_else_are_refused(name: str, tmp_path: Path) -> None:
    saved(name, tmp_path)
    save_file({"another": torch.zeros(1)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"another (has no place in the base|is not in adapter_config.json), but"):
        open_adapter(base_of("llama"), tmp_path)


@pytest.mark.parametrize("name", ["lora", "adalora", "prefix", "adapter_s", "spectrum"])
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_weights_of_a_diverged_training_are_refused(name: str, number: str, tmp_path: Path) -> None:
    saved(name, tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    tensors = load_file(path)
    next(reversed(tensors.values())).flatten()[0] = float(number)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=f"{next(reversed(tensors))} .*holds NaN or infinite entries"):
        open_adapter(base_of("llama"), tmp_path)


def test_trained_tensors_go_before_a_configuration_beside_them(tmp_path: Path) -> None:
    saved("spectrum", tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "LORA"}))
    assert form_of(tmp_path) == "TENSORS"
