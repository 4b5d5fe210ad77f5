"""Tokens on disk; oracle: `tokenise` itself, counted when it is called."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from spectral_ft.data import token_cache
from spectral_ft.data.dataset import Example
from spectral_ft.data.token_cache import cached_tokenise
from spectral_ft.data.tokenised import TokenisedExamples, tokenise
from spectral_ft.errors import ConfigError, DataError
from tests.conftest import EMBEDDED
from tests.models.small_checkpoints import bert_tokenizer, t5_tokenizer
from tests.oracles import law

TEXTS = (Example("What is 62 minus 20? Answer:", " 62-20=42"), Example("1+2=", "3"), Example("", " x"))
SETTINGS: dict[str, Any] = {"max_length": 64, "too_long": "truncate", "train_on_inputs": False}
REVIEWS = (Example("a good film", " positive"), Example("the bad", " negative"))
LABELS = ["negative", "positive"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(EMBEDDED)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every call of `tokenise`."""
    seen: list[int] = []

    def counted(examples: Any, *rest: Any, **options: Any) -> TokenisedExamples:
        seen.append(len(examples))
        return tokenise(examples, *rest, **options)

    monkeypatch.setattr(token_cache, "tokenise", counted)
    return seen


def call(cache: Path | None, *examples: Example, tokenizer: Any, fingerprint: str = "f", **changes: Any) -> Any:
    options = SETTINGS | changes
    return cached_tokenise(examples, tokenizer, cache=cache, tokenizer_fingerprint=fingerprint, **options)


def entries(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.safetensors"))


CASES: dict[str, tuple[Callable[[], Any], tuple[Example, ...], dict[str, Any]]] = {
    "causal_lm": (lambda: AutoTokenizer.from_pretrained(EMBEDDED), TEXTS, {"max_length": 12}),
    "dropped": (lambda: AutoTokenizer.from_pretrained(EMBEDDED), TEXTS, {"max_length": 12, "too_long": "drop"}),
    "seq2seq": (t5_tokenizer, REVIEWS, {"kind": "seq2seq", "max_length": 3}),
    "classifier": (bert_tokenizer, REVIEWS, {"kind": "classifier", "labels": LABELS, "max_length": 4}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_comes_from_the_cache_is_what_was_tokenised(case: str, tmp_path: Path, calls: list[int]) -> None:
    made, examples, changes = CASES[case]
    fresh = tokenise(examples, made(), **SETTINGS | changes)
    assert fresh.truncated + fresh.dropped > 0
    for _ in range(3):
        found = call(tmp_path / "tokens", *examples, tokenizer=made(), **changes)
        assert found == fresh
        assert {type(value) for row in found.rows for value in row["input_ids"]} == {int}
        assert list(found[0]) == ["input_ids", "labels"]
    assert calls == [len(examples)]


def test_without_a_cache_nothing_is_kept(tmp_path: Path, calls: list[int], tokenizer: PreTrainedTokenizerBase) -> None:
    first, second = (call(None, *TEXTS, tokenizer=tokenizer) for _ in range(2))
    assert first == second and len(calls) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("examples", "changes"),
    [
        (TEXTS[:2], {}),
        (TEXTS[::-1], {}),
        ((*TEXTS[:2], Example(" x", "")), {}),  # the same text, parted elsewhere
        ((*TEXTS[:1], Example("1+2=", "4"), *TEXTS[2:]), {}),
        (TEXTS, {"max_length": 63}),
        (TEXTS, {"too_long": "drop"}),
        (TEXTS, {"train_on_inputs": True}),
        (TEXTS, {"kind": "seq2seq"}),
        (TEXTS, {"labels": LABELS}),
        (TEXTS, {"labels": LABELS[::-1]}),
        (TEXTS, {"fingerprint": "g"}),
    ],
)
def test_other_texts_settings_or_tokenizers_are_other_entries(
    tmp_path: Path,
    calls: list[int],
    tokenizer: PreTrainedTokenizerBase,
    examples: tuple[Example, ...],
    changes: dict[str, Any],
) -> None:
    call(tmp_path, *TEXTS, tokenizer=tokenizer)
    call(tmp_path, *TEXTS, tokenizer=tokenizer, labels=["other"])
    found = call(tmp_path, *examples, tokenizer=tokenizer, **changes)
    settings = {name: value for name, value in changes.items() if name != "fingerprint"}
    assert found == tokenise(examples, tokenizer, **SETTINGS | settings)
    assert len(calls) == 3 and len(entries(tmp_path)) == 3


def test_the_row_that_a_text_comes_from_is_no_matter(
    tmp_path: Path, calls: list[int], tokenizer: PreTrainedTokenizerBase
) -> None:
    found = [
        call(tmp_path, *(text._replace(row=first + n) for n, text in enumerate(TEXTS)), tokenizer=tokenizer)
        for first in (0, 7)
    ]
    assert len(calls) == 1 and found[0] == found[1] and found[0].places == [0, 1, 2]


def test_another_format_is_another_entry(
    tmp_path: Path, calls: list[int], tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(tmp_path, *TEXTS, tokenizer=tokenizer)
    monkeypatch.setattr(token_cache, "FORMAT", token_cache.FORMAT + 1)
    call(tmp_path, *TEXTS, tokenizer=tokenizer)
    assert len(calls) == 2


PAIRS = st.lists(st.builds(Example, st.text("ab\"',[]\\\n\0", max_size=3), st.text('ab"],', max_size=3)), max_size=3)


@law
@given(PAIRS, PAIRS)
def test_no_two_lists_of_texts_share_an_entry(one: list[Example], other: list[Example]) -> None:
    keys = {token_cache._digest(texts, "f", SETTINGS) for texts in (one, other)}
    assert len(keys) == (1 if one == other else 2)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(bytes(content))


def foreign(path: Path) -> None:
    save_file({"x": np.zeros(3)}, path)


def renamed(path: Path) -> None:
    save_file({f"{name}_": array for name, array in load_file(path).items()}, path, metadata={"checksum": "1"})


@pytest.mark.parametrize("damage", [truncated, empty, flipped, foreign, renamed])
def test_a_damaged_entry_is_made_again(
    tmp_path: Path,
    calls: list[int],
    tokenizer: PreTrainedTokenizerBase,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
) -> None:
    fresh = call(tmp_path, *TEXTS, tokenizer=tokenizer)
    (path,) = entries(tmp_path)
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert call(tmp_path, *TEXTS, tokenizer=tokenizer) == fresh
    assert "cached tokens are damaged (" in caplog.text and str(path) in caplog.text
    assert len(calls) == 2
    caplog.clear()
    assert call(tmp_path, *TEXTS, tokenizer=tokenizer) == fresh
    assert len(calls) == 2 and not caplog.text


def test_faults_of_the_examples_pass_and_nothing_is_kept(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match=r"training row 0 .* has 23 tokens, more than dataset.max_length=12"):
        call(tmp_path, *TEXTS, tokenizer=tokenizer, max_length=12, too_long="error")
    with pytest.raises(ConfigError, match=r"dataset.train_on_inputs=true means nothing with model.kind=seq2seq"):
        call(tmp_path, *TEXTS, tokenizer=tokenizer, kind="seq2seq", train_on_inputs=True)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


def test_an_interrupted_write_leaves_no_entry(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(arrays: Any, path: Path, **options: Any) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(token_cache, "save_file", torn)
    with pytest.raises(KeyboardInterrupt):
        call(tmp_path, *TEXTS, tokenizer=tokenizer)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


def test_who_comes_second_waits_and_reads(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def slow(*arguments: Any, **options: Any) -> TokenisedExamples:
        calls.append(1)
        time.sleep(0.3)
        return tokenise(*arguments, **options)

    monkeypatch.setattr(token_cache, "tokenise", slow)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: call(tmp_path, *TEXTS, tokenizer=tokenizer), range(3)))
    assert len(calls) == 1
    assert found[0] == found[1] == found[2]
