"""When a text that is being written has come to an end, row by row of a batch.

The harness's own criteria end a batch where every row holds the same stop sequence. Rows that end in different ways, or
by the tokenizer's own end, keep each other going to the limit of new tokens: with GSM8K's stop sequences nearly every
batch of 16 is. What lies behind a stop sequence is cut in any case, so the answers are the same.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteria

MORE = 2
"""Tokens to look back beyond those of the longest stop sequence, which may be written in other tokens."""


class StopsByRow(StoppingCriteria):
    """A row is done where what was written last holds a stop sequence."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], begin: int) -> None:
        """Remember what ends a text.

        Args:
            tokenizer: Of the model.
            stop: Texts.
            begin: Tokens of the prompt, in which nothing is looked for.
        """
        self._tokenizer = tokenizer
        self._stop = list(stop)
        self._begin = begin
        self.done: torch.Tensor
        """Of shape (rows,): which rows are, after a first look."""
        self._back = MORE + max((len(tokenizer.encode(text, add_special_tokens=False)) for text in stop), default=0)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Look at every row.

        Args:
            input_ids: Of shape (rows, tokens), the prompt included.
            scores: Not used.
            **kwargs: Not used.

        Returns:
            Of shape (rows,): whether a row is done, now or before.
        """
        del scores, kwargs
        tails = self._tokenizer.batch_decode(input_ids[:, self._begin :][:, -self._back :])
        now = torch.tensor([any(text in tail for text in self._stop) for tail in tails], device=input_ids.device)
        self.done = now | self.done if hasattr(self, "done") else now
        return self.done
