"""Packed rows; oracles: batches typed out, and the same examples padded: their loss, their gradients, their logits."""

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from spectral_ft.data.collation import PackedBatch, padded_batch
from spectral_ft.errors import ConfigError
from spectral_ft.models.packing import check_boundaries
from spectral_ft.types import IGNORED
from tests.conftest import EMBEDDED
from tests.models.tiny_models import model_of
from tests.oracles import law

ROWS = [
    {"input_ids": [5, 6, 7, 8, 9], "labels": [IGNORED, IGNORED, 7, 8, 9]},
    {"input_ids": [10, 11], "labels": [10, 11]},
    {"input_ids": [12, 13, 14], "labels": [IGNORED, 13, 14]},
]
IMPLEMENTATIONS = ("sdpa", "eager")
OTHERS = {
    "opt": {"ffn_dim": 24, "word_embed_proj_dim": 8, "max_position_embeddings": 64},  # positions, but no boundaries
    "bloom": {"n_layer": 2, "n_head": 4},  # no positions at all
    "mpt": {"d_model": 8, "n_layers": 2, "n_heads": 4},
}


def embedded(implementation: str = "sdpa", **options: Any) -> PreTrainedModel:
    options = {"dtype": torch.float32} | options  # the files' 16 bits hide what is compared here
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED, attn_implementation=implementation, **options)
    assert model.config._attn_implementation == implementation
    return model  # type: ignore[no-any-return]


def gradients(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    model.config.use_cache = False  # as the Trainer does
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_examples_lie_end_to_end() -> None:
    batch = PackedBatch()(ROWS)
    assert batch.keys() == {"input_ids", "position_ids", "labels"}
    assert torch.equal(batch["input_ids"], tensor([[5, 6, 7, 8, 9, 10, 11, 12, 13, 14]]))
    assert torch.equal(batch["position_ids"], tensor([[0, 1, 2, 3, 4, 0, 1, 0, 1, 2]]))
    assert torch.equal(batch["labels"], tensor([[IGNORED, IGNORED, 7, 8, 9, IGNORED, 11, IGNORED, 13, 14]]))
    assert ROWS[1]["labels"] == [10, 11]


@law
@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=6))
def test_what_is_learnt_is_what_the_padded_batch_learns(texts: list[list[int]]) -> None:
    rows = [{"input_ids": ids, "labels": ids} for ids in texts]
    packed, padded = PackedBatch()(rows), padded_batch("causal_lm", 0)(rows)
    assert {tuple(values.shape) for values in packed.values()} == {(1, sum(map(len, texts)))}
    learnt = padded["labels"][:, 1:]
    assert packed["labels"][packed["labels"] != IGNORED].tolist() == learnt[learnt != IGNORED].tolist()
    assert int((packed["position_ids"] == 0).sum()) == len(texts)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_loss_and_gradients_are_those_of_the_padded_batch(implementation: str) -> None:
    model = embedded(implementation)
    loss, found = gradients(model, PackedBatch()(ROWS))
    expected_loss, expected = gradients(model, padded_batch("causal_lm", 0)(ROWS))
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm()) <= 1e-5 * float(gradient.norm()), name
    blind = PackedBatch()(ROWS) | {"attention_mask": torch.ones(1, 10, dtype=torch.long)}
    assert gradients(model, blind)[0] != pytest.approx(expected_loss, rel=1e-2)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_embedded_model_keeps_texts_apart(implementation: str) -> None:
    check_boundaries(embedded(implementation))


@pytest.mark.parametrize("model_type", ["mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "mixtral", "gpt2"])
def test_architectures_that_keep_texts_apart(model_type: str) -> None:
    check_boundaries(model_of(model_type))


@pytest.mark.parametrize("model_type", ["falcon", *OTHERS])
def test_architectures_that_look_across(model_type: str) -> None:
    sizes = {"vocab_size": 32, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = model_of(model_type, **(sizes | OTHERS.get(model_type, {})))
    with pytest.raises(
        ConfigError,
        match=rf"(?i)^{model_type}ForCausalLM with attention implementation (sdpa|eager) looks across the boundaries "
        r"of packed texts: logits differ by up to 0\.\d+ of the largest, where 0.001 is rounding: use "
        r"training.batching=random or length\.$",
    ):
        check_boundaries(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropped", ["attention", "positions"])
def test_a_model_that_does_not_part_texts_is_found_in_any_precision(dtype: torch.dtype, dropped: str) -> None:
    model = embedded(dtype=dtype)
    check_boundaries(model)
    forward = model.forward

    def careless(input_ids: torch.Tensor, position_ids: torch.Tensor, **options: Any) -> Any:
        if dropped == "positions":
            return forward(input_ids=input_ids, **options)
        return forward(
            input_ids=input_ids, position_ids=position_ids, attention_mask=torch.ones_like(input_ids), **options
        )

    model.forward = careless
    with pytest.raises(ConfigError, match=r"logits differ by up to 0\.[3-9]\d* of the largest"):
        check_boundaries(model)


def test_logits_that_are_no_numbers_agree_with_nothing() -> None:
    model = embedded()
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(torch.nan)
    with pytest.raises(ConfigError, match="differ by up to nan of the largest"):
        check_boundaries(model)


def test_a_prefix_before_the_texts_makes_a_model_look_across() -> None:
    from peft import LoraConfig, PrefixTuningConfig, get_peft_model

    check_boundaries(get_peft_model(embedded(), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])))
    prefixed = get_peft_model(embedded(), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with pytest.raises(ConfigError, match=r"^LlamaForCausalLM with attention implementation sdpa looks across"):
        check_boundaries(prefixed)


def test_a_model_that_takes_no_positions_is_refused() -> None:
    def forward(input_ids: torch.Tensor) -> torch.Tensor:
        return input_ids

    assert "position_ids" not in inspect.signature(forward).parameters
    with pytest.raises(
        ConfigError, match=r"^SimpleNamespace takes no position_ids, .*: use training.batching=random or length\.$"
    ):
        check_boundaries(SimpleNamespace(forward=forward))  # type: ignore[arg-type]


def test_the_modes_of_a_model_and_the_random_state_are_left_as_they_were() -> None:
    model = embedded().train()
    model.model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    check_boundaries(model)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_is_not_taken_for_looking_across() -> None:
    check_boundaries(embedded(attention_dropout=0.5).train())
