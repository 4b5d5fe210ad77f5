"""A loaded model as the harness wants it, which refuses prompts that it would have to cut.

Departs from the harness: a seq2seq model writes at most as many tokens as a task allows. The harness adds
the length of the padded prompt, which stands in the encoder, so that the answer would depend on the batch.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerBase

from spectral_ft.end_marks import end_token, open_ended
from spectral_ft.errors import DataError
from spectral_ft.evaluation.batching import items_at_once
from spectral_ft.evaluation.responses import Responses
from spectral_ft.evaluation.stopping import StopsByRow
from spectral_ft.evaluation.writing import can_be_divided, likeliest
from spectral_ft.machine import free_memory

log = logging.getLogger(__name__)
PLAIN = frozenset({"attention_mask", "do_sample", "num_beams"})
"""Settings that do not look at how long an answer is already, so that it may be written in parts."""
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
        responses: Responses,
        *,
        task: str,
        kind: Literal["causal_lm", "seq2seq"],
        batch_size: int | None,
        largest_batch: int,
        context: int | None,
        mixed: torch.dtype | None = None,
    ) -> None:
        """Wrap.

        Args:
            model: Adapted or not.
            tokenizer: Its tokenizer.
            responses: Hears of each batch.
            task: For errors.
            kind: Of the model.
            batch_size: Items at a time; None takes what fits.
            largest_batch: Of those that are found so.
            context: Most tokens the model takes; None leaves it to the harness.
            mixed: What products are computed in; None: the dtypes of their factors.
        """
        end_token(tokenizer)
        super().__init__(
            pretrained=model,
            tokenizer=open_ended(tokenizer) if kind == "causal_lm" else tokenizer,
            backend=BACKENDS[kind],
            batch_size=batch_size or 1,
            max_length=context,
            mixed_precision_dtype=mixed,
        )
        self._task = task
        self._responses = responses
        self._largest_batch = None if batch_size else largest_batch
        self._items: list[Any] = []

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
        longest = 0
        for request in requests:
            length = len(self.tok_encode(request.args[0]))
            room = int(request.args[1].get("max_gen_toks", HARNESS_NEW_TOKENS))
            longest = max(longest, length + room)
            if (max(length, room) if self._apart else length + room) > self.max_length:
                raise self._too_long(request.doc_id, length, f"may have {room}")
        beams = max((int(request.args[1].get("num_beams", 1)) for request in requests), default=1)
        self._choose_batch("generate_until", longest, with_logits=1, beams=beams)
        return list(super().generate_until(requests, disable_tqdm=disable_tqdm))

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score completions, if every one and its prompt fit.

        Args:
            requests: Of the harness.
            disable_tqdm: No progress bar.

        Returns:
            Log-likelihood, and whether it is what the model would have written, a request.

        Raises:
            DataError: If one does not fit into the model's context.
        """
        self._items = [request.doc_id for request in requests]
        return list(super().loglikelihood(requests, disable_tqdm=disable_tqdm))

    def fits(self, prompt: int, answer: int) -> bool:
        """Whether a likelihood can be had without a cut.

        Args:
            prompt: Tokens of it.
            answer: Tokens that are scored.

        Returns:
            True if every token is scored after its whole prompt.
        """
        # Of a single stack the last token is not read: nothing is asked of what would follow.
        return (max(prompt, answer) if self._apart else prompt + answer - 1) <= self.max_length

    def _loglikelihood_tokens(self, requests: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        for place, (_, prompt, answer) in enumerate(requests):
            if not self.fits(len(prompt), len(answer)):
                raise self._too_long(self._items[place], len(prompt), f"has {len(answer)}")
        longest = max((len(prompt) + len(answer) for _, prompt, answer in requests), default=1)
        self._choose_batch("loglikelihood", longest, with_logits=longest, beams=1)
        return super()._loglikelihood_tokens(requests, *args, **kwargs)

    @property
    def _apart(self) -> bool:
        return self.backend == "seq2seq"  # prompt and answer stand in different stacks

    def _too_long(self, item: Any, prompt: int, answer: str) -> DataError:
        return DataError(
            f"benchmark {self._task}, item {item}: the prompt has {prompt} tokens and the answer {answer}, "
            f"{'one of them' if self._apart else 'together'} more than the model's context of {self.max_length}. Use a "
            "model with a longer context, or fewer examples in the prompt (benchmark.num_fewshot)."
        )

    def _choose_batch(self, attr: str, longest: int, *, with_logits: int, beams: int) -> None:
        if self._largest_batch is None:
            return
        free = free_memory(self.device)
        fitting = items_at_once(
            self.config.get_text_config(),
            length=longest,
            with_logits=with_logits,
            beams=beams,
            entry=self.model.dtype.itemsize,
            free=free,
            largest=self._largest_batch,
        )
        self.batch_size_per_gpu = self._responses.batch_size(attr, fitting=fitting)
        log.info(
            "benchmark %s, %s: %d items at a time (%d of up to %d tokens would fit into %.1f GiB of free memory)",
            self._task, attr, self.batch_size_per_gpu, fitting, longest, free / 2**30,
        )  # fmt: skip

    def _model_call(self, inps: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        self._responses.batch_begins()
        return super()._model_call(inps, *args, **kwargs)

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **generation_kwargs: Any
    ) -> torch.Tensor:
        self._responses.batch_begins()
        if self.backend == "seq2seq":
            max_length += 1 - context.shape[1]  # the decoder begins with one token of its own
        if generation_kwargs.get("num_beams", 1) == 1:
            with torch.autocast(
                self.device.type, self.mixed_precision_dtype, enabled=self.mixed_precision_dtype is not None
            ):
                written = self._written(context, max_length, stop, **generation_kwargs)
        else:  # of beams the harness's criteria see the first only
            written = super()._model_generate(context, max_length, stop, **generation_kwargs)
        answers = written if self.backend == "seq2seq" else written[:, context.shape[1] :]
        self._responses.batch_ended(self._ended(answers, stop, limited=written.shape[1] >= max_length))
        return written

    def _written(
        self, context: torch.Tensor, max_length: int, stop: Sequence[str], **generation_kwargs: Any
    ) -> torch.Tensor:
        # As the harness does it, whose own call takes no other criteria: without a temperature nothing is drawn.
        generation_kwargs = {"temperature": 0.0, **generation_kwargs}
        if generation_kwargs["temperature"] == 0.0 and not generation_kwargs.get("do_sample"):
            del generation_kwargs["temperature"]
            generation_kwargs["do_sample"] = False
        pad = int(self.tokenizer.pad_token_id)
        stops = partial(StopsByRow, self.tokenizer, stop)
        mask = generation_kwargs["attention_mask"]
        plain = generation_kwargs.keys() <= PLAIN and not generation_kwargs["do_sample"]
        if plain and not self._apart and can_be_divided(self.model):
            return likeliest(self.model, context, mask, limit=max_length, pad=pad, criterion=stops)
        written: torch.Tensor = self.model.generate(
            input_ids=context,
            max_length=max_length,
            pad_token_id=pad,
            use_cache=True,
            stopping_criteria=[stops(0 if self._apart else context.shape[1])],
            **generation_kwargs,
        )
        return written

    def _ended(self, answers: torch.Tensor, stop: Sequence[str], *, limited: bool) -> list[bool]:
        if not limited:
            return [True] * len(answers)
        generation = getattr(self.model, "generation_config", None)
        more = getattr(generation, "eos_token_id", None)  # of chat models often several
        ends = {self.eot_token_id, *(more if isinstance(more, list) else [more])} - {None}
        by_token = torch.isin(answers, torch.tensor(sorted(ends), device=answers.device)).any(1).tolist()
        return [
            done or any(text in self.tok_decode(row) for text in stop)
            for done, row in zip(by_token, answers.tolist(), strict=True)
        ]
