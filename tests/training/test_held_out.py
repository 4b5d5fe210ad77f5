"""The loss of rows; oracles: log-probabilities of one row at a time in float64, and the laws of a sum."""

import math
import random
from collections.abc import Mapping
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from spectral_ft.data.collation import LabelledBatch, PackedBatch, PaddedBatch, padded_batch
from spectral_ft.errors import DataError
from spectral_ft.training.held_out import Loss, mean_loss
from spectral_ft.types import IGNORED
from tests.methods import small_bases
from tests.methods.small_bases import KINDS, METHODS, adapt, lora, moved
from tests.models.tiny_models import MODEL_TYPES
from tests.oracles import law

PADDED = PaddedBatch(0)


def frozen(model_type: str) -> PreTrainedModel:
    """With weights large enough that what a token sees of the others moves its loss."""
    sizes = {} if model_type == "t5" else {"initializer_range": 0.5}
    if model_type in {"qwen2_moe", "qwen3_moe"}:
        sizes["moe_intermediate_size"] = 8  # a width that the kernel of experts takes
    return small_bases.frozen(model_type, **sizes)


MODELS = {name: frozen(name) for name in ("llama", "gpt2", "t5", "bert")}


def rows_for(model_type: str, count: int = 7) -> list[dict[str, Any]]:
    """Of several lengths and with labels that are not learnt, as the kind of model takes them."""
    generator = random.Random(0)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        ids = [generator.randrange(4, 32) for _ in range(generator.randint(3, 9))]
        labels = {
            "classifier": number % 2,
            "seq2seq": [*ids[1:4], IGNORED, 5],
            "causal_lm": [IGNORED] * (number % 3) + ids[number % 3 :],
        }[KINDS.get(model_type, "causal_lm")]
        rows.append({"input_ids": ids, "labels": labels})
    return rows


@torch.no_grad()
def by_hand(model: torch.nn.Module, rows: list[dict[str, Any]]) -> Loss:
    """Each row alone, without padding and without asking the model for a loss."""
    config, total, tokens = cast(Any, model).config, 0.0, 0
    for row in rows:
        inputs = {"input_ids": torch.tensor([row["input_ids"]])}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if isinstance(row["labels"], int):
            aimed = [(0, row["labels"])]
            logits = model(**inputs).logits
        elif config.is_encoder_decoder:
            written = [0 if label == IGNORED else label for label in row["labels"]]
            aimed = list(enumerate(row["labels"]))
            logits = model(**inputs, decoder_input_ids=torch.tensor([[0, *written[:-1]]])).logits[0]
        else:
            aimed = list(enumerate(row["labels"][1:]))
            logits = model(**inputs).logits[0]
        logs = logits.double().log_softmax(-1)
        learnt = [(place, label) for place, label in aimed if label != IGNORED]
        total -= sum(float(logs[place, label]) for place, label in learnt)
        tokens += len(learnt)
    return Loss(total, tokens)


def collator(model_type: str) -> Any:
    return padded_batch(KINDS.get(model_type, "causal_lm"), 0)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_loss_is_what_each_row_says_alone(model_type: str) -> None:
    model, rows = frozen(model_type), rows_for(model_type)
    found, wanted = mean_loss(model, rows, collator(model_type), batch_size=3), by_hand(model, rows)
    assert found.tokens == wanted.tokens
    assert found.total == pytest.approx(wanted.total, rel=1e-6)
    assert found.mean == pytest.approx(wanted.total / wanted.tokens, rel=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_an_adapted_model_is_scored_as_it_speaks(name: str) -> None:
    # AdaLoRA's wrapper adds a penalty to its loss; a prefix is left out by the model below the wrapper.
    base = frozen("llama")
    bare = by_hand(base, rows_for("llama"))
    model = adapt(name, base).model
    for _ in range(4):
        moved(model)  # far enough for every method to show
    found, wanted = mean_loss(model, rows_for("llama"), PADDED, batch_size=4), by_hand(model, rows_for("llama"))
    assert found.tokens == wanted.tokens
    assert found.total == pytest.approx(wanted.total, rel=2e-6)
    assert abs(wanted.total - bare.total) > 1e-3 * bare.total  # the method does something to be missed


@pytest.mark.parametrize("model_type", ["t5", "bert"])
@pytest.mark.parametrize("name", ["lora", "adalora", "prefix"])
def test_so_are_the_other_kinds(name: str, model_type: str) -> None:
    model = moved(adapt(name, frozen(model_type)).model)
    rows = rows_for(model_type)
    found, wanted = mean_loss(model, rows, collator(model_type), batch_size=4), by_hand(model, rows)
    assert found.tokens == wanted.tokens
    assert found.total == pytest.approx(wanted.total, rel=2e-6)


@given(
    batch_size=st.integers(1, 12),
    order=st.permutations(range(11)),
    model_type=st.sampled_from(sorted(MODELS)),
)
@settings(law, max_examples=25)
def test_neither_the_batch_size_nor_the_order_of_rows_matters(
    batch_size: int, order: list[int], model_type: str
) -> None:
    rows, model, collate = rows_for(model_type, 11), MODELS[model_type], collator(model_type)
    found = mean_loss(model, [rows[place] for place in order], collate, batch_size=batch_size)
    same_batches = mean_loss(model, rows, collate, batch_size=batch_size)
    alone = mean_loss(model, rows, collate, batch_size=1)
    assert found == same_batches  # to the last bit
    assert found.tokens == alone.tokens
    assert found.total == pytest.approx(alone.total, rel=1e-6)


@given(first=st.integers(0, 11))
@settings(law, max_examples=12)
def test_the_losses_of_two_halves_add_up(first: int) -> None:
    rows, model = rows_for("llama", 11), MODELS["llama"]
    whole, one, other = (mean_loss(model, some, PADDED, batch_size=4) for some in (rows, rows[:first], rows[first:]))
    assert one.tokens + other.tokens == whole.tokens
    assert one.total + other.total == pytest.approx(whole.total, rel=1e-6)


def test_rows_laid_end_to_end_do_not_see_one_another() -> None:
    rows, model = rows_for("llama"), MODELS["llama"]
    padded, packed = (mean_loss(model, rows, collate, batch_size=4) for collate in (PADDED, PackedBatch()))
    assert packed.tokens == padded.tokens
    assert packed.total == pytest.approx(padded.total, rel=1e-6)


def test_equal_logits_cost_the_logarithm_of_the_vocabulary() -> None:
    model = frozen("llama")
    cast(Any, model).lm_head.weight.zero_()
    found = mean_loss(model, rows_for("llama"), PADDED, batch_size=2)
    assert found.mean == pytest.approx(math.log(32), rel=1e-6)


def test_a_row_of_which_nothing_is_learnt_adds_nothing() -> None:
    rows, model = rows_for("llama"), MODELS["llama"]
    silent = [{"input_ids": [5] * 20, "labels": [IGNORED] * 20}, {"input_ids": [6], "labels": [6]}]
    assert mean_loss(model, silent, PADDED, batch_size=1) == (0.0, 0)
    assert mean_loss(model, [], PADDED, batch_size=1) == (0.0, 0)
    alone, mixed = (mean_loss(model, some, PADDED, batch_size=2) for some in (rows, silent + rows))
    assert mixed.tokens == alone.tokens
    assert mixed.total == pytest.approx(alone.total, rel=1e-6)


def test_rows_of_like_length_go_together_and_the_longest_first() -> None:
    seen: list[list[int]] = []

    def noting(rows: list[dict[str, Any]]) -> Mapping[str, torch.Tensor]:
        seen.append([len(row["input_ids"]) for row in rows])
        return PADDED(rows)

    rows = [{"input_ids": [5] * length, "labels": [5] * length} for length in (3, 9, 4, 8, 2)]
    mean_loss(MODELS["llama"], rows, cast(Any, noting), batch_size=2)
    assert seen == [[9, 8], [4, 3], [2]]


def test_model_and_chance_are_as_before() -> None:
    rows = rows_for("llama")
    model: torch.nn.Module = adapt("lora", frozen("llama"), method=lora(dropout=0.5)).model
    model.train()
    frozen_part = next(module for name, module in model.named_modules() if name.endswith("mlp"))
    frozen_part.eval()  # one part in a mode of its own
    modes = {name: module.training for name, module in model.named_modules()}
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    torch.manual_seed(7)
    random.seed(7)
    before, python = torch.get_rng_state(), random.getstate()
    one, again = (mean_loss(model, rows, PADDED, batch_size=3) for _ in range(2))
    assert one == again  # without dropout
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == python
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


def test_the_mode_comes_back_after_an_error() -> None:
    model = frozen("llama").train()
    with pytest.raises(KeyError, match="labels"):
        mean_loss(model, [{"input_ids": [5], "labels": [5]}], lambda rows: {}, batch_size=1)
    assert all(module.training for module in model.modules())


def test_nothing_is_kept_for_generation_or_backward() -> None:
    model, kept = adapt("lora", frozen("llama")).model, []
    head = next(module for name, module in model.named_modules() if name.endswith("model.model"))
    head.register_forward_hook(
        lambda module, inputs, output: kept.append((output.past_key_values, output[0].requires_grad))
    )
    mean_loss(model, rows_for("llama"), PADDED, batch_size=4)
    assert kept == [(None, False)] * 2


def test_a_loss_that_is_no_number_is_returned() -> None:
    model: PreTrainedModel = frozen("llama")
    cast(Any, model).model.norm.weight.fill_(math.nan)
    found = mean_loss(model, rows_for("llama"), PADDED, batch_size=2)
    assert math.isnan(found.total) and math.isnan(found.mean) and found.tokens > 0


def test_there_is_no_mean_over_nothing() -> None:
    with pytest.raises(DataError, match=r"no mean loss over 0 learnt labels: give rows"):
        _ = Loss(0.0, 0).mean


def test_a_classifier_learns_one_label_a_row() -> None:
    rows = rows_for("bert", 5)
    assert mean_loss(MODELS["bert"], rows, LabelledBatch(0), batch_size=2).tokens == 5
