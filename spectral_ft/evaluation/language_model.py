"""A loaded model as the harness wants it, which refuses prompts that it would have to cut."""

from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerBase

from spectral_ft.errors import DataError

HARNESS_NEW_TOKENS = 256
"""What the harness generates where a task does not say."""


class CheckedModel(HFLM):
    """The harness's own wrapper; it alone would cut a long prompt at its beginning and go on."""

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        task: str,
        batch_size: int,
        context: int | None,
    ) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=context)
        self._task = task
        self._context = context

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
            if self._context is not None and length + room > self._context:
                raise DataError(
                    f"benchmark {self._task}, item {request.doc_id}: the prompt has {length} tokens and the answer may "
                    f"have {room}, together more than the model's context of {self._context}. Use a model with a "
                    "longer context, or fewer examples in the prompt (benchmark.num_fewshot)."
                )
        return list(super().generate_until(requests, disable_tqdm=disable_tqdm))
