"""Checkpoints of random weights with a tokenizer of a few words, as `save_pretrained` writes them."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

WORDS = ("good", "bad", "film", "a", "the", "not", "1", "2", "3", "+", "=", "?", "negative", "positive", "####")
CONTEXT = 16


def tokenizer_of(before: str, after: str) -> PreTrainedTokenizerFast:
    """One token a word, with these marks around every text; 0 pads, 1 is an unknown word."""
    marks = ["[PAD]", "[UNK]", *filter(None, (before, after))]
    vocabulary = {word: number for number, word in enumerate((*marks, *WORDS))}
    plain = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    plain.pre_tokenizer = WhitespaceSplit()
    around = [(mark, vocabulary[mark]) for mark in (before, after) if mark]
    plain.post_processor = TemplateProcessing(single=f"{before} $A {after}".strip(), special_tokens=around)
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token="[PAD]",
        unk_token="[UNK]",
        **({"cls_token": before} if before else {}),
        **({"eos_token": after} if after else {}),
        **({"sep_token": after} if before else {}),
        model_max_length=CONTEXT,
    )


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """`[CLS] text [SEP]`."""
    return tokenizer_of("[CLS]", "[SEP]")


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """`text </s>`."""
    return tokenizer_of("", "</s>")


def bert_config(**changes: object) -> BertConfig:
    sizes = {
        "vocab_size": len(WORDS) + 4,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "pad_token_id": 0,
    }
    return BertConfig(**sizes | changes)


def save_bert(folder: Path, *, labels: int | None = None, **changes: object) -> Path:
    """An encoder; with labels, one that has a head already."""
    torch.manual_seed(0)
    if labels is None:
        return saved(BertModel(bert_config(**changes)), bert_tokenizer(), folder)
    return saved(BertForSequenceClassification(bert_config(num_labels=labels, **changes)), bert_tokenizer(), folder)


def save_t5(folder: Path, **changes: object) -> Path:
    """An encoder and a decoder, which may have `n_positions` as the public T5 has."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(WORDS) + 3, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    marks = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
    return saved(T5ForConditionalGeneration(T5Config(**sizes | marks | changes)), t5_tokenizer(), folder)


def save_llama(folder: Path) -> Path:
    """A decoder whose configuration names no padding token."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS) + 3,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        eos_token_id=2,
    )
    return saved(LlamaForCausalLM(config), t5_tokenizer(), folder)


def saved(model, tokenizer, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
