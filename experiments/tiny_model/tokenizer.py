"""The tokenizer of the embedded model: whole words, single digits, single punctuation marks.

A leading-space mark is always put in front, then every digit and punctuation mark is split off, so
that a number is a sequence of digits and ``####`` is one token. The vocabulary is what occurs in
the generated texts, in alphabetical order: the same at every run.
"""

import random

from language import document
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from spectral_ft.data.wordmath import draw_problems

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
SAMPLE_DOCUMENTS = 40_000
CONTEXT = 128


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer from samples of both families.

    Returns:
        A fast tokenizer that puts ``<bos>`` in front of every text.
    """
    split = pre_tokenizers.Sequence([
        pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always"),
        pre_tokenizers.Split(Regex(r"[0-9.,?!;:=+\-]"), "isolated"),
    ])
    rng = random.Random(0)
    texts = [document(rng) for _ in range(SAMPLE_DOCUMENTS)]
    texts += [p.question + p.answer for p in draw_problems(4_000, split="train", seed=0)]
    words = {word for text in texts for word, _ in split.pre_tokenize_str(text)}
    vocabulary = [*SPECIAL, *sorted(words)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
