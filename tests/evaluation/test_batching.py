"""How many at a time; oracles: sizes counted by hand, a model whose memory ends."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, LlamaConfig

from spectral_ft import machine
from spectral_ft.data.rows import Item
from spectral_ft.errors import OutOfMemory
from spectral_ft.evaluation.batching import LARGEST, SHARE, items_at_once
from spectral_ft.evaluation.harness import score_task
from spectral_ft.evaluation.language_model import CheckedModel
from spectral_ft.machine import free_memory
from tests.evaluation.small_tasks import choices, small_llama, sums
from tests.evaluation.test_benchmark import benchmark
from tests.oracles import law

LLAMA = LlamaConfig(
    hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2,
    vocab_size=1000,
)  # fmt: skip
ITEMS = [Item(f"{n} + 1 =", "", str(n + 1)) for n in range(9)]
sizes = st.integers(1, 10**4)


def test_what_an_item_takes_by_hand() -> None:
    keys_and_values = 2 * 3 * (64 // 8 * 2)
    token = (keys_and_values + 12 * 256) * 2
    item = 10 * token + 4 * 1000 * (2 + 4)
    for count in (1, 2, 8):
        fits = items_at_once(LLAMA, length=10, with_logits=4, beams=1, entry=2, free=int(count * item / SHARE) + 1)
        less = items_at_once(LLAMA, length=10, with_logits=4, beams=1, entry=2, free=int(count * item / SHARE) - 9)
        assert (fits, less) == (count, max(1, count // 2))


@law
@given(sizes, sizes, st.integers(1, 8), st.integers(-(2**36), 2**36), st.integers(1, 64))
def test_a_power_of_two_that_grows_with_memory_alone(
    length: int, logits: int, beams: int, free: int, largest: int
) -> None:
    def size(**other: int) -> int:
        said = {"length": length, "with_logits": logits, "beams": beams, "free": free, "largest": largest}
        return items_at_once(LLAMA, entry=4, **said | other)

    found = size()
    assert found & (found - 1) == 0 and 1 <= found <= largest
    assert free > 0 or found == 1
    assert size(free=free + abs(free)) >= found >= size(length=2 * length)
    assert found >= size(beams=beams + 1) and found >= size(with_logits=logits + 1)


def test_a_model_that_says_less_of_itself() -> None:
    config = GPT2Config(n_embd=64, n_layer=2, n_head=2, vocab_size=100)
    assert items_at_once(config, length=8, with_logits=1, beams=1, entry=4, free=2**40) == LARGEST


@pytest.mark.parametrize(
    ("maximum", "used", "files", "expected"),
    [
        ("max", "5", "3", 1000),
        ("600", "200", "0", 400),
        ("600", "500", "450", 550),  # most of it are files that the system would drop
        ("600", "600", "0", 0),
        ("600", "640", "0", 0),  # as a limit that was lowered leaves it
        ("9000", "1", "0", 1000),
        (None, "", "", 1000),
    ],
)
def test_the_limit_of_the_control_group_counts(
    maximum: str | None, used: str, files: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "GROUP", tmp_path)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000))
    if maximum is not None:
        (tmp_path / "memory.max").write_text(f"{maximum}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
        (tmp_path / "memory.stat").write_text(f"anon 7\nfile 9\ninactive_file {files}\nactive_file 8\n")
    assert free_memory(torch.device("cpu")) == expected


@pytest.mark.parametrize(("reserved", "allocated", "expected"), [(0, 0, 500), (300, 100, 700), (300, 300, 500)])
def test_what_torch_keeps_of_freed_tensors_is_free(
    reserved: int, allocated: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (500, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated)
    assert free_memory(torch.device("cuda", 0)) == expected


def test_the_size_that_was_found_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    score_task(*small_llama(), choices(tmp_path, ITEMS), benchmark(batch_size=None), stage="base", context=64)
    score_task(*small_llama(), choices(tmp_path, ITEMS), benchmark(batch_size=4), stage="base", context=64)
    (line,) = [record.getMessage() for record in caplog.records if "items at a time" in record.getMessage()]
    assert line.startswith("benchmark choices, loglikelihood: 32 items at a time (32 of up to ")


def narrow(monkeypatch: pytest.MonkeyPatch, *, fits: int) -> list[int]:
    """A device that takes so many items at a time; filled with the sizes that were tried."""
    tried: list[int] = []
    original = CheckedModel._model_call

    def called(self: CheckedModel, inputs: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        tried.append(len(inputs))
        if len(inputs) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nmore")
        return original(self, inputs, *args, **kwargs)

    monkeypatch.setattr(CheckedModel, "_model_call", called)
    return tried


def test_half_as_many_are_tried_where_memory_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = score_task(*small_llama(), choices(tmp_path, ITEMS), benchmark(), stage="base", context=64)
    tried = narrow(monkeypatch, fits=5)
    found = score_task(
        *small_llama(), choices(tmp_path, ITEMS), benchmark(batch_size=None), stage="base", context=64
    )  # fmt: skip
    assert found.scores == expected.scores
    assert tried[0] == 9 and max(tried[-2:]) <= 5
    assert "32 items at a time do not fit, going on with 16" in caplog.text


@pytest.mark.parametrize(("asked", "fits", "size"), [(4, 3, 4), (None, 0, 1)])
def test_a_size_that_was_asked_for_is_not_changed(
    asked: int | None, fits: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow(monkeypatch, fits=fits)
    with pytest.raises(OutOfMemory, match=rf"benchmark choices: .* with {size} items at a time: lower benchmark.batch"):
        score_task(*small_llama(), choices(tmp_path, ITEMS), benchmark(batch_size=asked), stage="base", context=64)


def test_another_fault_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(CheckedModel, "_model_generate", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        score_task(*small_llama(), sums(tmp_path, ITEMS), benchmark(batch_size=None), stage="base", context=64)


def test_a_written_batch_is_found_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = CheckedModel._model_generate
    monkeypatch.setattr(
        CheckedModel, "_model_generate", lambda self, **k: seen.append(len(k["context"])) or original(self, **k)
    )
    score_task(*small_llama(), sums(tmp_path, ITEMS), benchmark(batch_size=None), stage="base", context=64)
    assert seen == [9]
