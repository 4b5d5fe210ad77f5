"""The loss without logits; oracles: the model's own loss and gradients, and what autograd keeps."""

import copy
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from spectral_ft.models.loading import load_model
from spectral_ft.models.quantization import Nf4
from spectral_ft.training import head_loss
from spectral_ft.training.head_loss import HeadIsNotLastError, fused_head_loss
from tests.methods.small_bases import adapt, frozen, trained
from tests.models.tiny_models import model_of
from tests.oracles import law
from tests.training.test_backward import batch, gradients


def masked(kind: str = "llama") -> dict[str, torch.Tensor]:
    inputs = batch(kind)
    labels = inputs["labels"].clone()
    labels[:, :4] = -100
    return {**inputs, "labels": labels}


def moved(kind: str, **sizes: object) -> torch.nn.Module:
    torch.manual_seed(5)
    model = adapt("lora", frozen(kind, **sizes)).model
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.normal_(0, 0.3)
    return model


@pytest.mark.parametrize("entries", [2**23, 40])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "qwen2", "mistral", "phi3", "gemma", "gemma2"])
def test_loss_and_gradients_are_the_models_own(kind: str, entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_loss, "ENTRIES", entries)
    sizes = {"final_logit_softcapping": None} if kind == "gemma2" else {}
    model, inputs = moved(kind, **sizes), masked()
    head = model.get_base_model().get_output_embeddings()  # type: ignore[operator]
    loss, expected = gradients(model, inputs)
    with fused_head_loss(model, inputs) as fused:
        found_loss, found = gradients(model, inputs)
        assert fused and model(**inputs).logits.shape[-1] == head.in_features
        assert model.eval()(**inputs).logits.shape[-1] == head.out_features
    assert found_loss == pytest.approx(loss, rel=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)
    assert type(head) is torch.nn.Linear and gradients(model, inputs)[0] == loss
    assert model.train()(**inputs).logits.shape[-1] == head.out_features


@law
@given(st.lists(st.booleans(), min_size=9, max_size=9), st.integers(1, 30) | st.none())
def test_any_labels_and_any_count(learnt: list[bool], count: int | None) -> None:
    inputs = batch("llama")
    inputs["labels"] = inputs["labels"].masked_fill(~torch.tensor(learnt), -100)
    options: dict[str, Any] = {} if count is None else {"num_items_in_batch": torch.tensor(float(count))}
    expected = MODEL.train()(**inputs, **options).loss
    with fused_head_loss(MODEL) as fused:
        found = MODEL.train()(**inputs, **options).loss
    assert fused
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7, equal_nan=True)


MODEL = moved("llama")


def test_mixed_precision_rounds_as_it_did() -> None:
    inputs = masked()
    with torch.autocast("cpu", torch.bfloat16):
        loss, expected = gradients(MODEL, inputs)
        with fused_head_loss(MODEL) as fused:
            found_loss, found = gradients(MODEL, inputs)
    assert fused and found_loss == pytest.approx(loss, rel=1e-2)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0.1, atol=0.02)


def test_logits_are_not_kept() -> None:
    model, inputs = moved("llama", vocab_size=4000), batch("llama")

    def largest() -> int:
        sizes = [0]
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
            _ = model.train()(**inputs).loss
        weights = {p.numel() for p in model.parameters()}
        return max(size for size in sizes if size not in weights)

    tokens = inputs["input_ids"].numel()
    assert largest() >= tokens * 4000 * 0.8
    with fused_head_loss(model, inputs):
        assert largest() < tokens * 40


@pytest.mark.parametrize("kind", ["gemma2", "t5", "bert"])
def test_a_model_that_does_more_keeps_its_own_loss(kind: str) -> None:
    sizes = {"final_logit_softcapping": 0.05} if kind == "gemma2" else {}
    model = model_of(kind, **sizes).requires_grad_(False)
    if kind != "gemma2":
        model = frozen(kind)
    model.train()
    inputs = batch(kind)
    torch.manual_seed(0)
    loss = model(**inputs).loss
    with fused_head_loss(model, inputs) as fused:
        torch.manual_seed(0)
        assert not fused and model.train()(**inputs).loss == loss


DOING_MORE = {
    "a cap that small logits hardly meet": ("gemma2", {"final_logit_softcapping": 30.0}),
    "scaled logits": ("granite", {"logits_scaling": 4.0}),
    "logits that are scaled up": ("cohere", {"logit_scale": 3.0}),
}


@pytest.mark.parametrize("case", DOING_MORE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("small", [1.0, 1e-3])
def test_what_is_done_to_small_logits_is_seen(case: str, dtype: torch.dtype, small: float) -> None:
    """All losses are the logarithm of the vocabulary there, to the rounding of 16 bits and beyond."""
    kind, sizes = DOING_MORE[case]
    model = model_of(kind, **sizes).requires_grad_(False).to(dtype)
    model.get_output_embeddings().weight.mul_(small)
    with fused_head_loss(model, batch("llama")) as fused:
        assert not fused


@pytest.mark.parametrize("case", [*DOING_MORE, "a plain head"])
def test_of_a_model_without_weights_a_forward_pass_tells(case: str) -> None:
    kind, sizes = DOING_MORE.get(case, ("llama", {}))
    with FakeTensorMode():
        model = model_of(kind, **sizes).requires_grad_(False).train()
        inputs = {name: torch.zeros(2, 9, dtype=torch.long) for name in ("input_ids", "labels")}
        expected = pytest.raises(HeadIsNotLastError, match="logits of shape") if case in DOING_MORE else nullcontext()
        with fused_head_loss(model) as fused, expected:
            assert fused and model(**inputs).loss.shape == ()


@pytest.mark.parametrize("kind", ["llama", "gemma", "qwen2", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_plain_head_is_known_in_every_precision(kind: str, dtype: torch.dtype) -> None:
    model = frozen(kind).to(dtype)
    with fused_head_loss(model, batch(kind)) as fused:
        assert not any(module.training for module in model.modules())
        assert fused and model.train()(**batch(kind)).logits.shape[-1] == 8


def test_what_lies_between_norm_and_head_leaves_the_norm_to_the_model() -> None:
    """As a model that scales its hidden states does, and so little that no loss would tell."""
    model = frozen("llama", vocab_size=64)
    model.lm_head.register_forward_pre_hook(lambda head, inputs: (inputs[0] * 1.001,))
    loss, _ = gradients(wide := adapt("lora", model).model, batch("llama"))
    with fused_head_loss(wide, batch("llama")) as fused:
        assert fused and type(model.model.norm).__name__ == "LlamaRMSNorm"
        assert gradients(wide, batch("llama"))[0] == pytest.approx(loss, rel=1e-5)


def test_another_loss_is_seen() -> None:
    model = frozen("llama", vocab_size=64)
    own = model.loss_function
    model.loss_function = lambda *args, **options: own(*args, **options) * 1.01
    with fused_head_loss(model, batch("llama")) as fused:
        assert not fused


@pytest.mark.parametrize("name", ["full", "trained head"])
def test_a_trained_head_needs_its_logits(name: str) -> None:
    model = adapt("full", frozen("llama")).model if name == "full" else frozen("llama")
    model.get_output_embeddings().weight.requires_grad_(True)  # type: ignore[operator]
    with fused_head_loss(model, batch("llama")) as fused:
        assert not fused


def test_on_packed_weights_too(tmp_path: Path) -> None:
    model_of("llama").save_pretrained(tmp_path)
    model = adapt("lora", load_model(tmp_path, quantization=Nf4(True), dtype="float32", trust_remote_code=False)).model
    loss, _ = gradients(model, masked())
    with fused_head_loss(model, masked()) as fused:
        assert fused and gradients(model, masked())[0] == pytest.approx(loss, rel=1e-5)


def test_a_head_wider_than_its_vocabulary_keeps_its_logits_where_its_norm_is_trained() -> None:
    for vocabulary, trained_norm, expected in ((30, True, False), (33, True, True), (30, False, True)):
        model = moved("llama", vocab_size=vocabulary, hidden_size=32)
        model.get_base_model().model.norm.weight.requires_grad_(trained_norm)  # type: ignore[operator, union-attr]
        with fused_head_loss(model) as fused:
            assert fused is expected


class Kept:
    """Of one saved tensor: gone when autograd lets it go."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def entries_kept(forward: Callable[[], torch.Tensor], model: torch.nn.Module) -> int:
    kept: weakref.WeakSet[Kept] = weakref.WeakSet()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor: torch.Tensor) -> Kept:
        kept.add(one := Kept(tensor))
        return one

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one.tensor):
        output = forward()
    storages = {one.tensor.untyped_storage().data_ptr(): one.tensor.numel() for one in kept}
    assert output.requires_grad  # and lives until here
    return sum(size for place, size in storages.items() if place not in weights)


def test_of_norm_head_and_loss_one_gradient_is_kept() -> None:
    model, inputs = moved("llama", vocab_size=100, hidden_size=32), batch("llama")
    core: Any = model.get_base_model()  # type: ignore[operator]

    def above() -> int:
        whole = entries_kept(lambda: model.train()(**inputs).loss, model)
        unlearnt = {name: value for name, value in inputs.items() if name != "labels"}
        return whole - entries_kept(lambda: core.model(**unlearnt).last_hidden_state, model)

    learnt = inputs["labels"][:, 1:].numel()
    with fused_head_loss(model, inputs):
        assert above() == learnt * (32 + 1)  # one more for the places of the labels


def test_a_copied_model_computes_its_own_loss() -> None:
    with fused_head_loss(MODEL):
        twin = copy.deepcopy(MODEL)
        before = float(MODEL.train()(**masked()).loss)
        with torch.no_grad():
            twin.get_base_model().get_output_embeddings().weight.mul_(3.0)  # type: ignore[operator]
        assert float(twin.train()(**masked()).loss) != pytest.approx(before, rel=1e-3)
        assert float(MODEL.train()(**masked()).loss) == before


def test_what_fails_inside_leaves_the_model_as_it_was() -> None:
    head = MODEL.get_base_model().get_output_embeddings()  # type: ignore[operator]
    with pytest.raises(ZeroDivisionError), fused_head_loss(MODEL):
        raise ZeroDivisionError
    assert type(head) is torch.nn.Linear
