"""Trained tensors; oracles: the tensors themselves, the model that was saved."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from spectral_ft.adapters.tensors import FILE, open_tensors, save_tensors, train_tensors
from spectral_ft.errors import CheckpointError, PlanError
from spectral_ft.models.loading import load_model
from spectral_ft.models.quantization import Int8, Nf4
from tests.conftest import EMBEDDED
from tests.methods.small_bases import frozen, logits, moved, trained

SOME = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]
PACKINGS = pytest.mark.parametrize("packing", [Nf4(True), Int8(6.0)], ids=["nf4", "int8"])


def packed(packing: Nf4 | Int8) -> PreTrainedModel:
    return load_model(EMBEDDED, quantization=packing, dtype="float32", trust_remote_code=False)


def test_the_weights_of_the_named_modules_are_trained() -> None:
    assert set(trained(train_tensors(frozen("llama"), SOME))) == {f"{name}.weight" for name in SOME}


def test_without_names_everything_is_trained() -> None:
    model = train_tensors(frozen("llama"), None)
    assert set(trained(model)) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("names", [SOME, None])
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "t5"])
def test_what_was_saved_opens_bitwise(names: list[str] | None, model_type: str, tmp_path: Path) -> None:
    if names is not None and model_type != "llama":
        names = [name for name, module in frozen(model_type).named_modules() if hasattr(module, "weight")][2:5]
    model = train_tensors(frozen(model_type), names)
    moved(model)
    save_tensors(model, tmp_path / "new")
    assert set(load_file(tmp_path / "new" / FILE)) == set(trained(model))
    opened = open_tensors(frozen(model_type).train(), tmp_path / "new")
    assert not opened.training and not trained(opened)
    for (name, was), (_, now) in zip(model.named_parameters(), opened.named_parameters(), strict=True):
        assert torch.equal(was, now), name
    assert torch.equal(logits(opened), logits(model))
    assert not torch.allclose(logits(opened), logits(frozen(model_type)), atol=1e-4)


def test_tied_tensors_are_saved_once_and_open_tied(tmp_path: Path) -> None:
    model = train_tensors(frozen("llama", tie_word_embeddings=True), None)
    moved(model)
    save_tensors(model, tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / FILE)
    opened = open_tensors(frozen("llama", tie_word_embeddings=True), tmp_path)
    assert opened.lm_head.weight is opened.model.embed_tokens.weight
    assert torch.equal(logits(opened), logits(model))


def test_a_name_without_a_weight_of_its_own_is_refused() -> None:
    for name in ("model.layers.7.mlp.up_proj", "model.layers.0.mlp", ""):
        with pytest.raises(PlanError, match=rf"^{name} has no weight of its own that could be trained"):
            train_tensors(frozen("llama"), [name])


@PACKINGS
def test_packed_weights_cannot_be_trained(packing: Nf4 | Int8) -> None:
    with pytest.raises(PlanError, match=f"{SOME[0]} has no weight of its own that could be trained"):
        train_tensors(packed(packing), SOME)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    model = train_tensors(frozen("llama"), SOME)
    save_tensors(model, tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    for part in (b"", whole[:40], whole[:-4]):
        (tmp_path / FILE).write_bytes(part)
        with pytest.raises(CheckpointError, match=rf"{FILE} cannot be read"):
            open_tensors(frozen("llama"), tmp_path)
    (tmp_path / FILE).unlink()
    with pytest.raises(CheckpointError, match=rf"{FILE} cannot be read: No such file"):
        open_tensors(frozen("llama"), tmp_path)


def test_tensors_of_another_base_are_refused(tmp_path: Path) -> None:
    save_tensors(train_tensors(frozen("llama"), SOME), tmp_path)
    with pytest.raises(CheckpointError, match=r"q_proj.weight \(8, 8\), the base has \(16, 16\): it was trained on"):
        open_tensors(frozen("llama", hidden_size=16, head_dim=4), tmp_path)
    with pytest.raises(CheckpointError, match=r"q_proj.weight \(8, 8\), the base has no such parameter"):
        open_tensors(frozen("gpt2"), tmp_path)


@PACKINGS
def test_a_packed_base_is_refused(packing: Nf4 | Int8, tmp_path: Path) -> None:
    save_file({f"{SOME[0]}.weight": torch.full((192, 192), 0.3)}, tmp_path / FILE)
    model = packed(packing)
    before = model.get_submodule(SOME[0]).weight.clone()
    with pytest.raises(CheckpointError, match=rf"{SOME[0]}.weight \(192, 192\), which the base has quantized: open it"):
        open_tensors(model, tmp_path)
    assert torch.equal(model.get_submodule(SOME[0]).weight, before)


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_what_a_diverged_training_left_is_refused(number: str, tmp_path: Path) -> None:
    save_file({f"{SOME[0]}.weight": torch.full((8, 8), float(number))}, tmp_path / FILE)
    with pytest.raises(
        CheckpointError, match=rf"{SOME[0]}.weight holds NaN or infinite entries: its training diverged"
    ):
        open_tensors(frozen("llama"), tmp_path)


def test_heads_are_trained_as_a_whole() -> None:
    query = "bert.encoder.layer.0.attention.self.query"
    model = train_tensors(frozen("bert"), [query], heads=["classifier"])
    assert set(trained(model)) == {f"{query}.weight", "classifier.weight", "classifier.bias"}
