"""Labels and cuts; oracle: the tokens of prompt and completion typed out."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from spectral_ft.data.dataset import Example
from spectral_ft.data.tokenised import TokenisedExamples, marked, row_of, tokenise
from spectral_ft.errors import CheckpointError, ConfigError, DataError
from spectral_ft.types import IGNORED
from tests.conftest import EMBEDDED
from tests.models.small_checkpoints import WORDS, bert_tokenizer, t5_tokenizer
from tests.oracles import law

EXAMPLE = Example("What is 62 minus 20? Answer:", " 62-20=42")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(EMBEDDED)


def tokenised(tokenizer: PreTrainedTokenizerBase, *examples: Example, **options: object) -> TokenisedExamples:
    defaults = {"max_length": 64, "too_long": "error", "train_on_inputs": False}
    return tokenise(examples, tokenizer, **{**defaults, **options})  # type: ignore[arg-type]


def test_the_loss_is_on_the_completion_and_the_end_mark(tokenizer: PreTrainedTokenizerBase) -> None:
    row = tokenised(tokenizer, EXAMPLE).rows[0]
    learnt = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != IGNORED]
    assert tokenizer.decode(learnt) == "62-20=42<eos>"
    assert row["input_ids"][0] == tokenizer.bos_token_id


def test_the_loss_is_on_the_prompt_too_where_asked(tokenizer: PreTrainedTokenizerBase) -> None:
    row = tokenised(tokenizer, EXAMPLE, train_on_inputs=True).rows[0]
    assert row["labels"] == row["input_ids"]


def test_a_long_example_is_cut_without_an_end_mark(tokenizer: PreTrainedTokenizerBase) -> None:
    whole = tokenised(tokenizer, EXAMPLE).rows[0]["input_ids"]
    cut = tokenised(tokenizer, EXAMPLE, max_length=len(whole) - 4, too_long="truncate")
    assert cut.rows[0]["input_ids"] == whole[:-4]
    assert (cut.truncated, cut.dropped) == (1, 0)


def test_an_example_that_fits_without_its_end_mark_is_whole(tokenizer: PreTrainedTokenizerBase) -> None:
    whole = tokenised(tokenizer, EXAMPLE).rows[0]["input_ids"]
    fits = tokenised(tokenizer, EXAMPLE, max_length=len(whole) - 1)
    assert fits.rows[0]["input_ids"] == whole[:-1]
    assert fits.truncated == 0


def test_a_long_example_is_dropped_where_asked(tokenizer: PreTrainedTokenizerBase) -> None:
    short = Example("1+2=", "3")
    kept = tokenised(tokenizer, EXAMPLE, short, max_length=10, too_long="drop")
    assert len(kept) == 1 and (kept.truncated, kept.dropped) == (0, 1)


def test_a_long_example_is_an_error_where_asked(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(
        DataError,
        match=r"training row 1 \(counted from 0; 'What is 62 minus 20\? Ans.*\) has 23 tokens, more than .*length=12:",
    ):
        tokenised(tokenizer, Example("1+2=", "3"), EXAMPLE, max_length=12)


def test_labels_that_are_all_cut_off_are_an_error(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match="none of the 1 training examples has a completion"):
        tokenised(tokenizer, EXAMPLE, max_length=8, too_long="truncate")


def test_what_is_cut_before_its_completion_is_left_out_and_counted(tokenizer: PreTrainedTokenizerBase) -> None:
    """Whatever is left has a learnt token beyond the first, which no causal model predicts."""
    first = len(tokenizer(EXAMPLE.prompt)["input_ids"])
    short, empty = Example("1+2=", "3"), Example("0" * 40, "")
    for length, kept, truncated in ((first, 1, 0), (first + 1, 2, 1)):
        found = tokenised(tokenizer, short, EXAMPLE, empty, max_length=length, too_long="truncate")
        assert (len(found), found.truncated, found.dropped) == (kept, truncated, 3 - kept)
        assert all(any(label != IGNORED for label in row["labels"][1:]) for row in found.rows)
    whole = tokenised(tokenizer, short, EXAMPLE, max_length=first, too_long="truncate", train_on_inputs=True)
    assert (len(whole), whole.truncated, whole.dropped) == (2, 1, 0)


def test_what_is_kept_knows_its_place_and_its_row(tokenizer: PreTrainedTokenizerBase) -> None:
    short, long = Example("1+2=", "3", row=40), Example("9" * 40, "9", row=7)
    found = tokenised(tokenizer, long, short, long, EXAMPLE, max_length=30, too_long="drop")
    assert found.places == [1, 3] and found.dropped == 2
    assert [row_of([long, short, long, EXAMPLE], place) for place in found.places] == [40, 3]
    with pytest.raises(DataError, match=rf"training row 7 \(counted from 0; '{'9' * 40}'\) has"):
        tokenised(tokenizer, short, long, max_length=30)


# A token a word: good 4, bad 5, film 6, a 7, the 8, not 9 behind [CLS] 2 ... [SEP] 3; one less behind ... </s> 2.
REVIEWS = (Example("a good film", " positive"), Example("the bad", " negative"))


def classified(*examples: Example, **options: object) -> TokenisedExamples:
    return tokenised(bert_tokenizer(), *examples, kind="classifier", labels=["negative", "positive"], **options)


def translated(*examples: Example, **options: object) -> TokenisedExamples:
    return tokenised(t5_tokenizer(), *examples, kind="seq2seq", **options)


def test_a_classifier_reads_the_prompt_and_learns_the_number_of_its_label() -> None:
    assert classified(*REVIEWS).rows == [
        {"input_ids": [2, 7, 4, 6, 3], "labels": 1},
        {"input_ids": [2, 8, 5, 3], "labels": 0},
    ]
    turned = tokenised(bert_tokenizer(), *REVIEWS, kind="classifier", labels=["positive", "other", "negative"])
    assert [row["labels"] for row in turned.rows] == [0, 2]


def test_a_classifiers_text_is_cut_between_its_marks() -> None:
    cut = classified(*REVIEWS, max_length=4, too_long="truncate")
    assert [row["input_ids"] for row in cut.rows] == [[2, 7, 4, 3], [2, 8, 5, 3]]
    assert (cut.truncated, cut.dropped) == (1, 0)
    kept = classified(*REVIEWS, max_length=4, too_long="drop")
    assert [row["labels"] for row in kept.rows] == [0] and (kept.truncated, kept.dropped) == (0, 1)
    with pytest.raises(
        DataError, match=r"training row 0 \(counted from 0; 'a good film'\) has 5 tokens, more than dataset.max"
    ):
        classified(*REVIEWS, max_length=4)


def test_a_completion_that_is_no_label_is_refused() -> None:
    with pytest.raises(
        DataError,
        match=r"training row 1 \(counted from 0; 'a film'\) has the label 'fine', none of model.labels=\['negative'",
    ):
        classified(REVIEWS[0], Example("a film", " fine"))


def test_a_text_of_nothing_is_still_a_text() -> None:
    assert classified(Example("", " negative")).rows == [{"input_ids": [2, 3], "labels": 0}]


def test_nothing_left_is_an_error_for_every_kind() -> None:
    for some in (classified, translated):
        with pytest.raises(
            DataError, match=r"none of the 1 training examples .* \(0 cut, 1 dropped\): there is nothing"
        ):
            some(REVIEWS[0], max_length=3, too_long="drop")


def test_seq2seq_reads_the_prompt_and_writes_the_completion_each_with_an_end_mark() -> None:
    assert translated(*REVIEWS).rows == [
        {"input_ids": [6, 3, 5, 2], "labels": [16, 2]},
        {"input_ids": [7, 4, 2], "labels": [15, 2]},
    ]


def test_an_end_mark_that_the_tokenizer_does_not_set_is_set(tokenizer: PreTrainedTokenizerBase) -> None:
    row = tokenised(tokenizer, EXAMPLE, kind="seq2seq").rows[0]
    assert row["input_ids"] == [*tokenizer(EXAMPLE.prompt)["input_ids"], tokenizer.eos_token_id]
    assert row["labels"] == [*tokenizer("62-20=42")["input_ids"], tokenizer.eos_token_id]


class Letters:
    """A token a letter, spaces included."""

    eos_token_id = 0

    def __call__(self, text: list[str] | None = None, *, text_target: list[str] | None = None, verbose: bool) -> object:
        return {"input_ids": [[ord(letter) for letter in one] for one in text or text_target or []]}


def test_what_seq2seq_writes_does_not_begin_with_the_space_behind_a_prompt() -> None:
    (row,) = tokenised(Letters(), Example("a", " b c"), kind="seq2seq").rows  # type: ignore[arg-type]
    assert row == {"input_ids": [ord("a"), 0], "labels": [ord("b"), ord(" "), ord("c"), 0]}


def test_a_cut_prompt_keeps_its_end_mark_and_a_cut_completion_has_none() -> None:
    long = Example("a good film", " the bad film")
    cut = translated(long, max_length=3, too_long="truncate")
    assert cut.rows == [{"input_ids": [6, 3, 2], "labels": [7, 4, 5]}]
    assert (cut.truncated, cut.dropped) == (1, 0)
    short = translated(Example("a film", " the bad film"), max_length=3, too_long="error")
    assert short.rows == [{"input_ids": [6, 5, 2], "labels": [7, 4, 5]}]  # whole but for the end mark, as for others


@pytest.mark.parametrize("example", [Example("a a a a", " a"), Example("a", " a a a a a")])
def test_the_length_holds_for_prompt_and_completion_apart(example: Example) -> None:
    assert translated(Example("a a a", " a a a"), max_length=4).truncated == 0
    with pytest.raises(DataError, match=r"training row 0 \(.*\) has [56] tokens, more than dataset.max_length=4"):
        translated(example, max_length=4)


@pytest.mark.parametrize("some", [classified, translated])
def test_no_loss_on_a_prompt_that_is_not_written(some: Callable[..., TokenisedExamples]) -> None:
    with pytest.raises(
        ConfigError, match=r"dataset.train_on_inputs=true means nothing with model.kind=(seq2seq|class)"
    ):
        some(*REVIEWS, train_on_inputs=True)


@law
@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=6), min_size=1, max_size=4), st.integers(2, 8))
def test_no_row_is_longer_than_the_length(texts: list[list[str]], max_length: int) -> None:
    examples = [Example(" ".join(words), " positive") for words in texts]
    for some in (classified, translated):
        found = some(*examples, max_length=max_length, too_long="truncate")
        assert len(found) == len(texts)
        assert all(len(row["input_ids"]) <= max_length for row in found.rows)
        whole = some(*examples, max_length=99)
        assert found.truncated == sum(len(row["input_ids"]) > max_length for row in whole.rows)


def test_an_example_is_shown_with_its_special_tokens_and_its_loss(tokenizer: PreTrainedTokenizerBase) -> None:
    def shown(some: TokenisedExamples, **options: object) -> str:
        return marked(some.rows[0], options.pop("tokenizer", tokenizer), **options)  # type: ignore[arg-type]

    assert shown(tokenised(tokenizer, EXAMPLE)) == "<bos> What is 62 minus 20? Answer:[[ 62-20=42<eos>]]"
    whole = tokenised(tokenizer, EXAMPLE, train_on_inputs=True)
    assert shown(whole) == "[[<bos> What is 62 minus 20? Answer: 62-20=42<eos>]]"
    one = classified(REVIEWS[0])
    assert shown(one, tokenizer=bert_tokenizer(), labels=["negative", "positive"]).endswith(" [[positive]]")
    assert shown(translated(REVIEWS[0]), tokenizer=t5_tokenizer()).endswith(" [[positive </s>]]")


def test_a_slow_tokenizer_is_refused_with_a_sentence() -> None:
    class Slow(Letters):
        is_fast = False
        name_or_path = "mine"

    with pytest.raises(CheckpointError, match=r"mine .*tokenizer\.json"):
        tokenised(Slow(), EXAMPLE)  # type: ignore[arg-type]
