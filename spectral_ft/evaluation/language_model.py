"""A loaded model as the harness wants it, which refuses prompts that it would have to cut.

Departs from the harness: a seq2seq model writes at most as many tokens as a task allows. The harness adds
the length of the padded prompt, which stands in the encoder, so that the answer would depend on the batch.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerBase

from spectral_ft.errors import DataError

HARNESS_NEW_TOKENS = 256
"""What the harness generates where a task does not say."""
BACKENDS: Mapping[str, Literal["causal", "seq2seq"]] = {"causal_lm": "causal", "seq2seq": "seq2seq"}
"""The harness's word for a kind of model; a classifier has none."""


class CheckedModel(HFLM):
    """The harness's own wrapper; it alone would cut a long prompt at its beginning and go on."""

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        task: str,
        kind: Literal["causal_lm", "seq2seq"],
        batch_size: int,
        context: int | None,
    ) -> None:
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            backend=BACKENDS[kind],
            batch_size=batch_size,
            max_length=context,
        )
        self._task = task

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Generate, if every prompt and its answer fit.

        Args:
            requests: Of the harness.
            disable_tqdm: No progress bar.

        Returns:
            One response a request.

        Raises:
            DataError: If one does not fit into the model's context.
        """
        for request in requests:
            length = len(self.tok_encode(request.args[0]))
            room = int(request.args[1].get("max_gen_toks", HARNESS_NEW_TOKENS))
            apart = self.backend == "seq2seq"  # prompt and answer stand in different stacks
            if (max(length, room) if apart else length + room) > self.max_length:
                raise DataError(
                    f"benchmark {self._task}, item {request.doc_id}: the prompt has {length} tokens and the answer may "
                    f"have {room}, {'one of them' if apart else 'together'} more than the model's context of "
                    f"{self.max_length}. Use a model with a longer context, or fewer examples in the prompt "
                    "(benchmark.num_fewshot)."
                )
        return list(super().generate_until(requests, disable_tqdm=disable_tqdm))

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **generation_kwargs: Any
    ) -> torch.Tensor:
        if self.backend == "seq2seq":
            max_length += 1 - context.shape[1]  # the decoder begins with one token of its own
        return super()._model_generate(context, max_length, stop, **generation_kwargs)
