"""Examples as token ids, with loss on the completion, and batches of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from spectral_ft.data.dataset import Example
from spectral_ft.errors import DataError

IGNORED = -100
"""Label that the loss leaves out."""


@dataclass(frozen=True)
class TokenisedExamples(torch.utils.data.Dataset):
    """What the training stage reads."""

    rows: list[dict[str, list[int]]]
    """input_ids and labels, both shape (tokens,)."""
    truncated: int
    dropped: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self.rows[index]


def tokenise(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    too_long: Literal["truncate", "drop", "error"],
    train_on_inputs: bool,
) -> TokenisedExamples:
    """Token ids of prompt, completion and end mark.

    Prompt and completion are tokenised as one text, as they will stand when the model generates;
    a token belongs to the completion if it ends beyond the prompt. The end mark is appended only
    where it still fits (as in LLM-Adapters).

    Args:
        examples: Prompts and completions.
        tokenizer: A fast tokenizer.
        max_length: Tokens.
        too_long: What to do with a longer example: cut it at the end, leave it out, or refuse.
        train_on_inputs: Loss on the prompt too.

    Returns:
        The examples, and how many were cut or left out.

    Raises:
        DataError: If an example is too long and `too_long` is `error`, or no example has a label.
    """
    rows: list[dict[str, list[int]]] = []
    truncated = dropped = 0
    encoded = tokenizer([e.prompt + e.completion for e in examples], return_offsets_mapping=True)
    for number, (example, ids, offsets) in enumerate(
        zip(examples, encoded["input_ids"], encoded["offset_mapping"], strict=True), start=1
    ):
        whole = list(ids)
        if whole[-1] != tokenizer.eos_token_id:
            whole.append(tokenizer.eos_token_id)
        labels = [
            token if train_on_inputs or end > len(example.prompt) else IGNORED
            for token, (_, end) in zip(ids, offsets, strict=True)
        ]
        labels = [*labels, tokenizer.eos_token_id][: len(whole)]
        # The example proper: the end mark is left out before anything is cut.
        if len(ids) > max_length:
            if too_long == "error":
                raise DataError(
                    f"training example {number} has {len(whole)} tokens, more than dataset.max_length={max_length}: "
                    f"{example.prompt[:60]!r}... Raise the length, or set dataset.too_long=truncate or drop."
                )
            if too_long == "drop":
                dropped += 1
                continue
            truncated += 1
        rows.append({"input_ids": whole[:max_length], "labels": labels[:max_length]})
    if not any(label != IGNORED for row in rows for label in row["labels"]):
        raise DataError(
            f"none of the {len(examples)} training examples has a completion within dataset.max_length={max_length} "
            f"tokens ({truncated} cut, {dropped} dropped): there is nothing to learn from. Raise the length."
        )
    return TokenisedExamples(rows, truncated, dropped)


@dataclass(frozen=True)
class PaddedBatch:
    """Collator: pads on the right to the longest example of the batch."""

    pad_token_id: int

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Stack examples.

        Args:
            rows: Of one batch.

        Returns:
            input_ids, attention_mask and labels, each of shape (batch, tokens).
        """
        longest = max(len(row["input_ids"]) for row in rows)

        def padded(key: str, fill: int) -> torch.Tensor:
            return torch.tensor([row[key] + [fill] * (longest - len(row[key])) for row in rows])

        mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows])
        return {
            "input_ids": padded("input_ids", self.pad_token_id),
            "attention_mask": mask,
            "labels": padded("labels", IGNORED),
        }
