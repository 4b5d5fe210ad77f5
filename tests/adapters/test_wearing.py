"""An adapter on and off; oracles: the logits of a base that never wore one, and of the adapter on a fresh base."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from spectral_ft.adapters.opening import open_adapter
from spectral_ft.adapters.wearing import wearing
from spectral_ft.errors import CheckpointError
from spectral_ft.models.loading import load_model
from spectral_ft.models.quantization import Nf4, Unquantized
from tests.methods.small_bases import METHODS, adapt, frozen, trained

IDS = torch.arange(3, 15).reshape(2, 6)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits.clone()  # type: ignore[no-any-return]


def saved(name: str, folder: Path, seed: int = 0) -> Path:
    """An adapter that was moved away from where it begins."""
    adapted = adapt(name, frozen("llama"))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in trained(adapted.model).values():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    adapted.save(folder)
    return folder


@pytest.mark.parametrize("name", METHODS)
def test_the_base_is_as_it_was(name: str, tmp_path: Path) -> None:
    base, one = frozen("llama"), saved(name, tmp_path / "one")
    before, attributes = logits(base), [sorted(vars(module)) for module in base.modules()]
    weights = {key: value.clone() for key, value in base.state_dict().items()}
    with wearing(base, one) as adapted:
        worn = logits(adapted)
    assert not torch.equal(worn, before)
    assert torch.equal(worn, logits(open_adapter(frozen("llama"), one)))
    assert torch.equal(logits(base), before)
    assert [sorted(vars(module)) for module in base.modules()] == attributes
    assert base.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in base.state_dict().items())


def test_one_after_the_other_as_each_alone(tmp_path: Path) -> None:
    folders = [saved(name, tmp_path / name, seed) for seed, name in enumerate(METHODS)]
    alone = [logits(open_adapter(frozen("llama"), folder)) for folder in folders]
    base: PreTrainedModel = frozen("llama")
    for folder, expected in [*zip(folders, alone, strict=True), (folders[0], alone[0])]:
        with wearing(base, folder) as adapted:
            assert torch.equal(logits(adapted), expected), folder.name


def test_packed_weights_too(tmp_path: Path) -> None:
    frozen("llama").save_pretrained(tmp_path / "base")
    adapter = saved("lora", tmp_path / "adapter")

    def base(quantization: Nf4 | Unquantized) -> PreTrainedModel:
        return load_model(tmp_path / "base", quantization=quantization, dtype="float32", trust_remote_code=False)

    model = base(Nf4(True))
    before = logits(model)
    assert not torch.equal(before, logits(base(Unquantized())))
    with wearing(model, adapter) as adapted:
        assert torch.equal(logits(adapted), logits(open_adapter(base(Nf4(True)), adapter)))
    assert torch.equal(logits(model), before)


def test_a_fault_inside_leaves_the_base(tmp_path: Path) -> None:
    base, folder = frozen("llama"), saved("full", tmp_path / "full")
    before = logits(base)
    with pytest.raises(ZeroDivisionError), wearing(base, folder):
        raise ZeroDivisionError
    assert torch.equal(logits(base), before)


@pytest.mark.parametrize("name", ["lora", "full"])
def test_a_damaged_adapter_changes_nothing(name: str, tmp_path: Path) -> None:
    base, folder = frozen("llama"), saved(name, tmp_path / name)
    before = logits(base)
    file = next(folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError), wearing(base, folder):
        pass
    assert torch.equal(logits(base), before)
