"""The likeliest answers of a batch, at no more cost than they need.

Four things make a batch of long prompts with short answers slow, on a CPU slower than one prompt at a time:

- Examples that all prompts begin with are read again for every prompt. Here they are read once, and what is kept
  of them is repeated for every row. A row is then `examples, padding, question` in the place of `padding, examples,
  question`; positions are counted without padding, so nothing else changes.
- A batch goes on until its last row is done. Here rows that are done leave it every few tokens.
- Prompts are read all at once, though beyond some thousand tokens nothing is gained by it. Here they are read in parts.
- The library copies what it keeps of all rows for every token. Here there is room for the next (`kv_cache`).

What a model computes is the same up to rounding.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from spectral_ft.evaluation.kv_cache import growing_cache, joined, repeated
from spectral_ft.evaluation.stopping import StopsByRow

PART = 8
"""Tokens after which rows that are done leave."""
READ = 2_048
"""Tokens of prompts that are read at a time: more make no product faster, and tensors so large that a CPU's time goes
into asking the system for their memory."""
WORTH = 32
"""Tokens that prompts must begin with in common, for them to be read apart."""


def can_be_divided(model: Any) -> bool:
    """Whether what a model keeps of a text can be repeated for several rows, and rows taken from it.

    Args:
        model: A causal one, adapted or not.

    Returns:
        True where it keeps keys and values of all tokens and nothing else, and no adapter adds some of its own.
    """
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return False
    if getattr(model, "_is_stateful", False):
        return False
    layers = DynamicCache(config=model.config.get_text_config()).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


@dataclass(frozen=True)
class _Rows:
    """Texts that are being written."""

    ids: torch.Tensor
    """Of shape (rows, tokens)."""
    mask: torch.Tensor
    """Of the same shape: 0 for padding."""
    cache: DynamicCache
    """What the model keeps of them, but for the last token of each."""
    done: torch.Tensor
    """Of shape (rows,): which have come to an end."""


@torch.no_grad()
def likeliest(
    model: Any,
    prompts: torch.Tensor,
    mask: torch.Tensor,
    *,
    limit: int,
    pad: int,
    criterion: Callable[[], StopsByRow],
) -> torch.Tensor:
    """Write, always the likeliest token.

    Args:
        model: In evaluation mode, of those that `can_be_divided`.
        prompts: Token ids of shape (rows, tokens), padded on the left.
        mask: Of the same shape: 0 for padding.
        limit: Tokens of prompt and answer together.
        pad: Token behind an answer that is done.
        criterion: Makes what says when a row is done, beside the model's own end.

    Returns:
        Prompts and answers, of shape (rows, tokens up to the end of the longest answer).
    """
    begun = _begun(model, prompts, mask, pad)
    begin, going = prompts.shape[1], torch.arange(len(prompts), device=prompts.device)
    some = max(1, READ // (begin - begun.cache.get_seq_length()))
    go_on = partial(_go_on, model, pad=pad, criterion=criterion)
    rows = _below_each_other([go_on(_of(begun, part), begin + 1) for part in going.split(some)])
    answers = prompts.new_full((len(prompts), limit - begin), pad)
    while True:
        answers[going, : rows.ids.shape[1] - begin] = rows.ids[:, begin:]
        left = _without(rows.done)
        if not len(left) or rows.ids.shape[1] == limit:
            return torch.cat([prompts, answers[:, : rows.ids.shape[1] - begin]], 1)
        if len(left) < len(going):
            rows.cache.batch_select_indices(left)
        going = going[left]
        still = _Rows(rows.ids[left], rows.mask[left], rows.cache, rows.done[left])
        rows = go_on(still, min(still.ids.shape[1] + PART, limit))


def _without(done: torch.Tensor) -> torch.Tensor:
    # The rows that go on; the places of those that do not are taken by the last ones, so that few must be moved.
    going = (~done).nonzero().squeeze(1)
    left = torch.arange(len(going), device=done.device)
    left[done[: len(going)]] = going[going >= len(going)]
    return left


def _begun(model: Any, prompts: torch.Tensor, mask: torch.Tensor, pad: int) -> _Rows:
    # Rows in another order, and what the model keeps of the tokens that all begin with, once; where these are few, rows
    # as they are and nothing kept.
    none = torch.zeros(len(prompts), dtype=torch.bool, device=prompts.device)
    rows = [row[kept.bool()] for row, kept in zip(prompts, mask, strict=True)]
    shortest = min(map(len, rows))
    heads = torch.stack([row[: shortest - 1] for row in rows])  # something must be left to go on from
    alike = (heads == heads[0]).all(0)
    common = int(alike.int().cumprod(0).sum())
    cache = growing_cache(_core(model).config.get_text_config())
    if len(rows) == 1 or common < WORTH:
        return _Rows(prompts, mask, cache, none)
    few = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(_core(model).forward).parameters else {}
    model(input_ids=rows[0][None, :common], past_key_values=cache, use_cache=True, **few)
    ids, kept = torch.full_like(prompts, pad), torch.zeros_like(mask)
    ids[:, :common], kept[:, :common] = rows[0][:common], 1
    for place, row in enumerate(rows):
        rest = len(row) - common
        ids[place, -rest:], kept[place, -rest:] = row[common:], 1
    return _Rows(ids, kept, cache, none)


def _go_on(model: Any, rows: _Rows, limit: int, *, pad: int, criterion: Callable[[], StopsByRow]) -> _Rows:
    # Up to so many tokens, or until all rows are done.
    stops = criterion()
    found = model.generate(
        input_ids=rows.ids,
        attention_mask=rows.mask,
        past_key_values=rows.cache,
        max_length=limit,
        pad_token_id=pad,
        use_cache=True,
        do_sample=False,
        stopping_criteria=[stops],
        return_dict_in_generate=True,
    )
    written = found.sequences[:, rows.ids.shape[1] :]
    done = stops.done | torch.isin(written, _ends(model).to(written.device)).any(1)
    return _Rows(found.sequences, torch.cat([rows.mask, torch.ones_like(written)], 1), found.past_key_values, done)


def _of(begun: _Rows, part: torch.Tensor) -> _Rows:
    # Some of the rows, each with what is kept of the tokens that all begin with.
    return _Rows(begun.ids[part], begun.mask[part], repeated(begun.cache, len(part)), begun.done[part])


def _below_each_other(parts: Sequence[_Rows]) -> _Rows:
    if len(parts) == 1:
        return parts[0]
    ids, mask, done = (torch.cat([getattr(part, name) for part in parts]) for name in ("ids", "mask", "done"))
    return _Rows(ids, mask, joined([part.cache for part in parts]), done)


def _core(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _ends(model: Any) -> torch.Tensor:
    end = model.generation_config.eos_token_id
    return torch.tensor(end if isinstance(end, list) else [end] if end is not None else [], dtype=torch.long)
