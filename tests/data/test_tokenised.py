"""Labels and cuts; oracle: the tokens of prompt and completion typed out."""

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from spectral_ft.data.dataset import Example
from spectral_ft.data.tokenised import IGNORED, PaddedBatch, TokenisedExamples, tokenise
from spectral_ft.errors import DataError
from tests.conftest import EMBEDDED

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
    with pytest.raises(DataError, match=r"training example 2 has 23 tokens, more than dataset.max_length=12"):
        tokenised(tokenizer, Example("1+2=", "3"), EXAMPLE, max_length=12)


def test_labels_that_are_all_cut_off_are_an_error(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match="none of the 1 training examples has a completion"):
        tokenised(tokenizer, EXAMPLE, max_length=8, too_long="truncate")


def test_a_batch_is_padded_on_the_right() -> None:
    batch = PaddedBatch(0)([{"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7]}, {"input_ids": [8], "labels": [8]}])
    assert torch.equal(batch["input_ids"], torch.tensor([[5, 6, 7], [8, 0, 0]]))
    assert torch.equal(batch["attention_mask"], torch.tensor([[1, 1, 1], [1, 0, 0]]))
    assert torch.equal(batch["labels"], torch.tensor([[IGNORED, 6, 7], [8, IGNORED, IGNORED]]))
