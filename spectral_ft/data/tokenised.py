"""Examples as token ids, with loss on the completion, cut to a length.

What a row holds depends on the kind of model: a causal language model reads prompt and completion as
one text and learns the latter; a seq2seq model reads the prompt and writes the completion; a classifier
reads the prompt, and the completion is the name of its label.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from spectral_ft.data.dataset import Example
from spectral_ft.end_marks import end_token, open_ended
from spectral_ft.errors import CheckpointError, ConfigError, DataError
from spectral_ft.types import IGNORED

SHOWN = 60
"""Letters of a prompt that name it."""


@dataclass(frozen=True)
class TokenisedExamples(torch.utils.data.Dataset):
    """What the training stage reads."""

    rows: list[dict[str, Any]]
    """input_ids, shape (tokens,), and labels: (tokens,), (tokens to write,) or one number, by the kind of model."""
    truncated: int
    """Cut at the length."""
    dropped: int
    """Left out: longer, where that was asked, or cut before there is anything to learn from."""
    places: list[int]
    """Of each row, the place of its example among those that were given."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


class _Encoded(NamedTuple):
    row: dict[str, Any]  # within the length
    tokens: int  # of the whole example
    cut: bool


def tokenise(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    kind: Literal["causal_lm", "seq2seq", "classifier"] = "causal_lm",
    labels: Sequence[str] | None = None,
    max_length: int,
    too_long: Literal["truncate", "drop", "error"],
    train_on_inputs: bool,
) -> TokenisedExamples:
    """Token ids of every example.

    Args:
        examples: Prompts and completions.
        tokenizer: A fast tokenizer.
        kind: Of the model.
        labels: Of a classifier, in the order of their ids.
        max_length: Tokens; for seq2seq of the prompt and, apart from it, of the completion.
        too_long: What to do with a longer example: cut it at the end, leave it out, or refuse. One that is cut
            before its completion begins is left out: a batch of such has no loss.
        train_on_inputs: Loss on the prompt too.

    Returns:
        The examples, and how many were cut or left out.

    Raises:
        ConfigError: If there shall be loss on the prompt and the model does not write it.
        CheckpointError: If the tokenizer has no end token, or no offsets.
        DataError: If an example is too long and `too_long` is `error`, a completion is none of the labels, or no
            example has a label.
    """
    if train_on_inputs and kind != "causal_lm":
        raise ConfigError(
            f"dataset.train_on_inputs=true means nothing with model.kind={kind}, which does not write its prompt: set "
            "it to false."
        )
    if kind != "classifier":
        end_token(tokenizer)
    if kind == "causal_lm":
        if not tokenizer.is_fast:
            raise CheckpointError(
                f"the tokenizer {tokenizer.name_or_path} does not say which letters a token stands for: a fast "
                "one, with a tokenizer.json, is needed."
            )
        tokenizer = open_ended(tokenizer)
    rows: list[dict[str, Any]] = []
    places: list[int] = []
    truncated = dropped = 0
    encoded = _ENCODERS[kind](examples, tokenizer, labels or (), max_length, train_on_inputs)
    for place, (example, (row, tokens, cut)) in enumerate(zip(examples, encoded, strict=True)):
        if cut and too_long == "error":
            raise DataError(
                f"training row {row_of(examples, place)} (counted from 0; {example.prompt[:SHOWN]!r}) has {tokens} "
                f"tokens, more than dataset.max_length={max_length}: raise the length, or set "
                "dataset.too_long=truncate or drop."
            )
        if (cut and too_long == "drop") or not _teaches(row["labels"], shifted=kind == "causal_lm"):
            dropped += 1
            continue
        truncated += cut
        rows.append(row)
        places.append(place)
    if not rows:
        raise DataError(
            f"none of the {len(examples)} training examples has a completion within dataset.max_length={max_length} "
            f"tokens ({truncated} cut, {dropped} dropped): there is nothing to learn from. Raise the length."
        )
    return TokenisedExamples(rows, truncated, dropped, places)


def marked(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, *, labels: Sequence[str] | None = None) -> str:
    """A tokenised example as text, as the model sees it, its special tokens included.

    Args:
        row: Of `TokenisedExamples`.
        tokenizer: The one that made it.
        labels: Of a classifier, in the order of their ids.

    Returns:
        The text, with the parts that have a loss between `[[` and `]]`; of a model that does not write its prompt these
        stand behind it.
    """
    ids, targets = row["input_ids"], row["labels"]
    if isinstance(targets, int):
        return f"{tokenizer.decode(ids)} [[{(labels or ())[targets]}]]"
    learnt = [label != IGNORED for label in targets]
    if len(targets) != len(ids) or any(
        own and label != token for token, label, own in zip(ids, targets, learnt, strict=True)
    ):
        return f"{tokenizer.decode(ids)} [[{tokenizer.decode([label for label in targets if label != IGNORED])}]]"
    # What is decoded alone may lose its first space.
    edges = [place for place in range(1, len(ids)) if learnt[place] != learnt[place - 1]]
    pieces, shown = [], ""
    for begin, end in pairwise([0, *edges, len(ids)]):
        whole = str(tokenizer.decode(ids[:end]))
        piece = whole.removeprefix(shown)
        pieces.append(f"[[{piece}]]" if learnt[begin] else piece)
        shown = whole
    return "".join(pieces)


def row_of(examples: Sequence[Example], place: int) -> int:
    """Where an example comes from.

    Args:
        examples: All.
        place: Of one among them.

    Returns:
        The row of its data set, from 0; its place where it comes from none.
    """
    row = examples[place].row
    return place if row is None else row


def _teaches(labels: list[int] | int, *, shifted: bool) -> bool:
    # The first token of a text that is continued is not learnt.
    return isinstance(labels, int) or any(label != IGNORED for label in labels[shifted:])


def _causal(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[str],
    max_length: int,
    train_on_inputs: bool,
) -> list[_Encoded]:
    # Prompt and completion are tokenised as one text, as they will stand when the model generates; a token belongs to
    # the completion if it ends beyond the prompt. The end mark is appended only where it still fits (as in
    # LLM-Adapters), and without it the example is whole.
    del labels
    found = []
    encoded = tokenizer([e.prompt + e.completion for e in examples], return_offsets_mapping=True)
    for example, ids, offsets in zip(examples, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        whole = _ended(ids, tokenizer)
        targets = [
            token if train_on_inputs or end > len(example.prompt) else IGNORED
            for token, (_, end) in zip(ids, offsets, strict=True)
        ]
        targets = [*targets, tokenizer.eos_token_id][: len(whole)]
        row = {"input_ids": whole[:max_length], "labels": targets[:max_length]}
        found.append(_Encoded(row, len(whole), cut=len(ids) > max_length))
    return found


def _seq2seq(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[str],
    max_length: int,
    train_on_inputs: bool,
) -> list[_Encoded]:
    # The prompt keeps its end mark when it is cut, since the encoder has never read a text without one; a completion
    # that is cut has none, since it has not ended. The space that would part it from the prompt is left out.
    del labels, train_on_inputs
    prompts = tokenizer([e.prompt for e in examples], verbose=False)["input_ids"]
    completions = tokenizer(text_target=[e.completion.lstrip(" ") for e in examples], verbose=False)["input_ids"]
    found = []
    for prompt, completion in zip(prompts, completions, strict=True):
        read, written = _ended(prompt, tokenizer), _ended(completion, tokenizer)
        cut = len(read) > max_length or len(written) - 1 > max_length
        kept = read if len(read) <= max_length else [*read[: max_length - 1], read[-1]]
        row = {"input_ids": kept, "labels": written[:max_length]}
        found.append(_Encoded(row, max(len(read), len(written)), cut))
    return found


def _classifier(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[str],
    max_length: int,
    train_on_inputs: bool,
) -> list[_Encoded]:
    del train_on_inputs
    numbers = {label: number for number, label in enumerate(labels)}
    texts = [e.prompt for e in examples]
    whole = tokenizer(texts, verbose=False)["input_ids"]
    kept = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]  # keeps the marks around the text
    found = []
    for place, (example, full, ids) in enumerate(zip(examples, whole, kept, strict=True)):
        name = example.completion.strip()
        if name not in numbers:
            raise DataError(
                f"training row {row_of(examples, place)} (counted from 0; {example.prompt[:SHOWN]!r}) has the label "
                f"{name!r}, none of model.labels={list(labels)}: take a data set of these classes, or correct the "
                "labels."
            )
        row = {"input_ids": list(ids), "labels": numbers[name]}
        found.append(_Encoded(row, len(full), cut=len(full) > max_length))
    return found


def _ended(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    # With the end mark that a tokenizer may or may not set itself.
    return list(ids) if ids and ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]


_Encoder = Callable[[Sequence[Example], PreTrainedTokenizerBase, Sequence[str], int, bool], list[_Encoded]]
_ENCODERS: Mapping[str, _Encoder] = {"causal_lm": _causal, "seq2seq": _seq2seq, "classifier": _classifier}
