"""Examples to batches: padded, by the kind of model, or laid end to end."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import torch

from spectral_ft.types import IGNORED

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class PaddedBatch:
    """Collator of texts that are written: inputs and labels are padded on the right to their longest."""

    pad_token_id: int

    def __call__(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Stack examples.

        Args:
            rows: Of one batch.

        Returns:
            input_ids and attention_mask of shape (batch, tokens), labels of the same shape for a causal language
            model and of (batch, tokens to write) for seq2seq.
        """
        return {**_inputs(rows, self.pad_token_id), "labels": _padded([row["labels"] for row in rows], IGNORED)}


@dataclass(frozen=True)
class LabelledBatch:
    """Collator of texts that are classified: inputs are padded on the right, labels are one a text."""

    pad_token_id: int

    def __call__(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Stack examples.

        Args:
            rows: Of one batch.

        Returns:
            input_ids and attention_mask of shape (batch, tokens), labels of shape (batch,).
        """
        return {**_inputs(rows, self.pad_token_id), "labels": torch.tensor([row["labels"] for row in rows])}


@dataclass(frozen=True)
class PackedBatch:
    """Collator of texts that a causal language model writes: laid end to end in one row, without padding.

    Positions restart at 0 with every example. Without an attention mask transformers finds the boundaries from them
    (packed sequences, whatever the attention implementation), so that no token attends to another example; not every
    architecture passes them on: see `models/packing.py`.

    Source: "padding-free" training, transformers' documentation of `DataCollatorWithFlattening`.
    """

    def __call__(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Lay examples end to end.

        Args:
            rows: Of one batch.

        Returns:
            input_ids, position_ids and labels of shape (1, tokens of all). The first token of an example has no
            label: it is not to be predicted from the example before.
        """
        return {
            "input_ids": _joined(row["input_ids"] for row in rows),
            "position_ids": _joined(range(len(row["input_ids"])) for row in rows),
            "labels": _joined([IGNORED, *row["labels"][1:]] for row in rows),
        }


def padded_batch(
    kind: Literal["causal_lm", "seq2seq", "classifier"], pad_token_id: int
) -> Callable[[Rows], dict[str, torch.Tensor]]:
    """The collator of a kind of model.

    Args:
        kind: Of the model.
        pad_token_id: Of its tokenizer.

    Returns:
        Rows of one batch to tensors.
    """
    return _COLLATORS[kind](pad_token_id)


_COLLATORS: Mapping[str, Callable[[int], Callable[[Rows], dict[str, torch.Tensor]]]] = {
    "causal_lm": PaddedBatch,
    "seq2seq": PaddedBatch,
    "classifier": LabelledBatch,
}


def _inputs(rows: Rows, pad_token_id: int) -> dict[str, torch.Tensor]:
    ids = [row["input_ids"] for row in rows]
    return {"input_ids": _padded(ids, pad_token_id), "attention_mask": _padded([[1] * len(row) for row in ids], 0)}


def _padded(sequences: list[list[int]], fill: int) -> torch.Tensor:
    longest = max(map(len, sequences))
    return torch.tensor([sequence + [fill] * (longest - len(sequence)) for sequence in sequences])


def _joined(sequences: Iterable[Sequence[int]]) -> torch.Tensor:
    return torch.tensor([list(chain.from_iterable(sequences))])
