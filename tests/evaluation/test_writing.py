"""Answers that are written in parts, what prompts share read once; oracle: transformers, each prompt alone."""

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PrefixTuningConfig, TaskType, get_peft_model

from spectral_ft.evaluation import writing
from spectral_ft.evaluation.stopping import StopsByRow
from spectral_ft.evaluation.writing import can_be_divided, likeliest
from tests.evaluation.small_tasks import small_llama
from tests.models.tiny_models import model_of
from tests.oracles import law

TOKENIZER = small_llama()[1]
PAD, END = int(TOKENIZER.pad_token_id), int(TOKENIZER.eos_token_id)
ROOM = {"gpt2": {"n_positions": 256}, "falcon": {}}
DIVIDED = ["llama", "gpt2", "gpt_neox", "qwen2", "gemma", "phi3", "falcon"]
ANSWER = 40


def decided(kind: str, **sizes: Any) -> Any:
    """A model whose likeliest token is far ahead, so that rounding changes none."""
    size = {"max_position_embeddings": 256} | sizes if kind not in ROOM else ROOM[kind] | sizes
    model = model_of(kind, vocab_size=len(TOKENIZER), **size).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.7, generator=torch.Generator().manual_seed(parameter.numel()))
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = END, PAD
    return model


def texts(common: int, rests: list[int]) -> list[list[int]]:
    drawn = torch.randint(
        5, len(TOKENIZER), (common + sum(rests),), generator=torch.Generator().manual_seed(3)
    ).tolist()
    head, found = drawn[:common], []
    for rest in rests:
        found.append(head + drawn[common : common + rest])
        drawn = drawn[:common] + drawn[common + rest :]
    return found


def padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[PAD] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def alone(model: Any, row: list[int], stop: list[str]) -> list[int]:
    """Up to what ends it, the end included."""
    criterion = StopsByRow(TOKENIZER, stop, begin=len(row))
    ids = torch.tensor([row])
    found = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_length=len(row) + ANSWER, do_sample=False, pad_token_id=PAD,
        stopping_criteria=[criterion],
    )  # fmt: skip
    return found[0, len(row) :].tolist()


def together(model: Any, rows: list[list[int]], stop: list[str]) -> list[list[int]]:
    ids, mask = padded(rows)
    criterion = partial(StopsByRow, TOKENIZER, stop)
    found = likeliest(model, ids, mask, limit=ids.shape[1] + ANSWER, pad=PAD, criterion=criterion)
    assert torch.equal(found[:, : ids.shape[1]], ids)
    return found[:, ids.shape[1] :].tolist()


def check(model: Any, rows: list[list[int]], stop: list[str]) -> list[list[int]]:
    expected = [alone(model, row, stop) for row in rows]
    found = together(model, rows, stop)
    for one, row in zip(expected, found, strict=True):
        assert row[: len(one)] == one and set(row[len(one) :]) <= {PAD}
    assert max(map(len, expected)) == len(found[0])
    return expected


@pytest.mark.parametrize("kind", DIVIDED)
@pytest.mark.parametrize("common", [0, 50])
def test_each_row_is_what_its_prompt_alone_gives(kind: str, common: int) -> None:
    model = decided(kind)
    assert can_be_divided(model)
    rows = texts(common, [3, 17, 1, 8])
    free = [alone(model, row, []) for row in rows]
    stop = [TOKENIZER.decode(answer[place : place + 2]) for answer, place in zip(free, (3, 20, 33), strict=False)]
    expected = check(model, rows, [text for text in stop if text.strip()])
    assert len({len(answer) for answer in expected}) > 1


@law
@given(
    st.sampled_from([0, 3, 31, 32, 50, 70]),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.integers(1, 5),
    st.sampled_from([1, 12, 30, 100, 1000]),
)
def test_any_lengths_and_parts(common: int, rests: list[int], part: int, read: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "PART", part)
        patch.setattr(writing, "READ", read)
        check(LLAMA, texts(common, rests), [])


LLAMA = decided("llama")


def test_what_all_begin_with_is_read_once_and_who_is_done_leaves() -> None:
    rows, read = texts(50, [3, 5, 4]), []
    free = [alone(LLAMA, row, []) for row in rows]
    stop = [TOKENIZER.decode(free[0][1:7])]
    assert stop[0] not in TOKENIZER.decode(free[1]) + TOKENIZER.decode(free[2])
    handle = LLAMA.get_input_embeddings().register_forward_hook(lambda _, given, __: read.append(given[0].shape))
    together(LLAMA, rows, stop)
    handle.remove()
    assert [tuple(shape) for shape in read[:2]] == [(1, 50), (3, 5)]
    assert sum(shape.numel() for shape in read) < 50 + 15 + writing.PART * 3 + (ANSWER - writing.PART) * 2 + 3


def test_prompts_are_read_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, read = texts(0, [20, 20, 19, 20, 18]), []
    monkeypatch.setattr(writing, "READ", 45)
    handle = LLAMA.get_input_embeddings().register_forward_hook(lambda _, given, __: read.append(tuple(given[0].shape)))
    together(LLAMA, rows, [])
    handle.remove()
    assert read[:4] == [(2, 20), (2, 20), (1, 18), (5, 1)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_a_batch_is_the_harnesss_own(dtype: torch.dtype) -> None:
    assert can_be_divided(model_of("llama"))
    assert not can_be_divided(model_of("llama").to(dtype))
    adapted = get_peft_model(model_of("llama").to(dtype), LoraConfig(task_type=TaskType.CAUSAL_LM))
    assert not can_be_divided(adapted)


def test_a_cache_that_is_no_list_of_all_tokens_is_left_whole() -> None:
    assert not can_be_divided(model_of("gemma2"))  # every other block sees a window
    assert can_be_divided(model_of("mistral", sliding_window=None))
    assert not can_be_divided(model_of("mistral", sliding_window=8))
    assert not can_be_divided(
        get_peft_model(model_of("llama"), PrefixTuningConfig(TaskType.CAUSAL_LM, num_virtual_tokens=2))
    )


@law
@given(st.lists(st.booleans(), max_size=9))
def test_the_rows_that_go_on_take_the_places_of_the_others(done: list[bool]) -> None:
    left = writing._without(torch.tensor(done, dtype=torch.bool)).tolist()
    assert sorted(left) == [place for place, over in enumerate(done) if not over]
    assert all(row == place for place, row in enumerate(left) if not done[place])
