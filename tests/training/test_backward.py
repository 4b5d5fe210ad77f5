"""Where backward stops; oracles: the usual way with gradients into the embeddings, and autograd alone."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from spectral_ft.errors import ConfigError
from spectral_ft.methods.seam import Adapted
from spectral_ft.models.loading import load_model
from spectral_ft.models.quantization import Nf4
from spectral_ft.training.backward import pretrained, recompute_activations, watched_backward
from spectral_ft.types import MatrixAllocation
from tests.conftest import EMBEDDED
from tests.methods.small_bases import METHODS, adapt, frozen, lora, seen, trained

BLOCKS = {
    "llama": [f"model.layers.{number}" for number in range(4)],
    "gpt2": [f"transformer.h.{number}" for number in range(4)],
    "bert": [f"bert.encoder.layer.{number}" for number in range(4)],
    "t5": [f"{side}.block.{number}" for side in ("encoder", "decoder") for number in range(2)],
}
DEPTH: Mapping[str, dict[str, int]] = {"llama": {"num_hidden_layers": 4}, "bert": {"num_hidden_layers": 4}}
DEPTH = {**DEPTH, "gpt2": {"n_layer": 4}, "t5": {}}


def batch(kind: str) -> dict[str, torch.Tensor]:
    ids = torch.randint(4, 30, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1, 1]) if kind == "bert" else ids}


def partly(model: PreTrainedModel, *, below: str | None) -> Adapted:
    """LoRA on every matrix at and above a block, by the order of the blocks."""
    base, blocks = seen(model), BLOCKS[model.config.model_type]
    start = blocks.index(below) if below else 0
    plan = lora().plan(
        tuple(
            MatrixAllocation(m.name, 2, 4.0)
            if any(m.name.startswith(f"{block}.") for block in blocks[start:])
            else MatrixAllocation(m.name, 0, 0.0)
            for m in base.matrices
        ),
        base,
    )
    torch.manual_seed(0)
    adapted = lora().adapt(model, plan, base=base, steps=4, probe=None)
    with torch.no_grad():
        for name, parameter in trained(adapted.model).items():
            if "lora_B" in name:
                parameter.normal_()
    return adapted


def gradients(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    model.train()
    model.zero_grad()
    torch.manual_seed(0)  # of dropout
    loss = model(**inputs).loss
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("below", [0, 1, 3])
@pytest.mark.parametrize("kind", BLOCKS)
def test_gradients_are_those_of_the_usual_way(kind: str, below: int) -> None:
    first = BLOCKS[kind][below]
    plain, ours, usual = (partly(frozen(kind, **DEPTH[kind]), below=first).model for _ in range(3))
    recompute_activations(ours)
    pretrained(usual).activation_checkpointing_enable()  # with gradients into the embeddings
    inputs = batch(kind)
    loss, expected = gradients(plain, inputs)
    for model in (ours, usual):
        found_loss, found = gradients(model, inputs)
        assert found_loss == pytest.approx(loss, rel=1e-6)
        assert found.keys() == expected.keys() and len(expected) > 0
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)
    with watched_backward(ours) as path:
        gradients(ours, inputs)
    assert (path.blocks, path.passed) == (BLOCKS[kind], BLOCKS[kind][below:])
    with watched_backward(usual) as path:
        gradients(usual, inputs)
    assert path.passed == BLOCKS[kind]


@pytest.mark.parametrize("name", [name for name in METHODS if name != "prefix"])
def test_every_method_knows_where_it_trains(name: str) -> None:
    model = adapt(name, frozen("llama")).model
    recompute_activations(model)
    with watched_backward(model) as path:
        _, found = gradients(model, batch("llama"))
    assert found.keys() == trained(model).keys()
    trains = [any(f".{block}." in f".{key}" for key in found) for block in path.blocks]
    assert path.passed == path.blocks[trains.index(True) :]


def test_on_packed_weights_too() -> None:
    def model() -> PreTrainedModel:
        return load_model(EMBEDDED, quantization=Nf4(True), dtype="float32", trust_remote_code=False)

    plain, ours = (partly(model(), below=BLOCKS["llama"][2]).model for _ in range(2))
    recompute_activations(ours)
    with watched_backward(ours) as path:
        loss, found = gradients(ours, batch("llama"))
    expected_loss, expected = gradients(plain, batch("llama"))
    assert loss == pytest.approx(expected_loss, rel=1e-6) and path.passed == BLOCKS["llama"][2:]
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)


def test_trained_embeddings_lead_backward_to_the_bottom() -> None:
    """Tied ones too: the head's weight is the embeddings'."""
    model: Any = frozen("gpt2", n_layer=4)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.get_input_embeddings().weight.requires_grad_(True)
    recompute_activations(model)
    with watched_backward(model) as path:
        _, found = gradients(model, batch("gpt2"))
    assert path.passed == BLOCKS["gpt2"] and list(found) == ["transformer.wte.weight"]


def test_hooks_are_gone_afterwards() -> None:
    model = partly(frozen("llama", num_hidden_layers=4), below=None).model
    with watched_backward(model) as path:
        assert (path.passed, path.sentence) == ([], "backward runs through none of the 4 blocks")
    gradients(model, batch("llama"))
    assert path.passed == []


def test_a_model_that_cannot_is_refused() -> None:
    model: Any = frozen("llama")
    model.supports_gradient_checkpointing = False
    with pytest.raises(
        ConfigError, match=r"LlamaForCausalLM cannot recompute activations: set training\.activation_ch"
    ):
        recompute_activations(model)
