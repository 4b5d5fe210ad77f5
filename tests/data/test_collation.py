"""Oracle: batches of two rows, padded by eye; and a model that must not see the padding."""

import pytest
import torch
from torch import tensor
from transformers import T5Config, T5ForConditionalGeneration

from spectral_ft.data.collation import padded_batch
from spectral_ft.types import IGNORED

HALF = tensor([[1, 1, 1], [1, 0, 0]])


def test_what_is_written_is_padded_on_the_right() -> None:
    rows = [{"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7]}, {"input_ids": [8], "labels": [8]}]
    batch = padded_batch("causal_lm", 0)(rows)
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}
    assert torch.equal(batch["input_ids"], tensor([[5, 6, 7], [8, 0, 0]]))
    assert torch.equal(batch["attention_mask"], HALF)
    assert torch.equal(batch["labels"], tensor([[IGNORED, 6, 7], [8, IGNORED, IGNORED]]))


def test_what_seq2seq_writes_has_a_length_of_its_own() -> None:
    rows = [{"input_ids": [5, 6, 7], "labels": [2]}, {"input_ids": [8], "labels": [4, 2]}]
    batch = padded_batch("seq2seq", 9)(rows)
    assert torch.equal(batch["input_ids"], tensor([[5, 6, 7], [8, 9, 9]]))
    assert torch.equal(batch["attention_mask"], HALF)
    assert torch.equal(batch["labels"], tensor([[2, IGNORED], [4, 2]]))


def test_a_text_has_one_label() -> None:
    batch = padded_batch("classifier", 0)([{"input_ids": [5, 6, 7], "labels": 1}, {"input_ids": [8], "labels": 0}])
    assert torch.equal(batch["input_ids"], tensor([[5, 6, 7], [8, 0, 0]]))
    assert torch.equal(batch["attention_mask"], HALF)
    assert torch.equal(batch["labels"], tensor([1, 0]))


def test_padding_changes_no_loss() -> None:
    torch.manual_seed(0)
    config = T5Config(vocab_size=12, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4, decoder_start_token_id=0)
    model = T5ForConditionalGeneration(config).eval()
    rows = [{"input_ids": [5, 6, 7, 2], "labels": [2]}, {"input_ids": [8, 2], "labels": [4, 6, 2]}]
    collate = padded_batch("seq2seq", 0)
    with torch.no_grad():
        together = model(**collate(rows)).loss
        alone = [float(model(**collate([row])).loss) * len(row["labels"]) for row in rows]
    assert float(together) == pytest.approx(sum(alone) / 4, rel=1e-5)
