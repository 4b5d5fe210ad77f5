"""The likeliest answers of a batch, at no more cost than they need.

Four things make a batch of long prompts with short answers slow, on a CPU slower than one prompt at a time:

- Examples that all prompts begin with are read again for every prompt. Here they are read once, and what is kept
  of them is repeated for every row. A row is then `examples, padding, question` in the place of `padding, examples,
  question`; positions are counted without padding, so nothing else changes.
- A batch goes on until its last row is done. Here rows that are done leave it every few tokens.
- Prompts are read all at once, though beyond some thousand tokens nothing is gained by it, and padding is read too.
  Here they are read in parts, long ones each alone and without padding.
- The library copies what it keeps of all rows for every token. Here there is room for the next (`kv_cache`).

What a model computes is the same up to rounding. In 16 bits that is enough to change many a likeliest token, as another
size of the batch does too; so there a batch is written as the harness does it, and answers are its own.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
    """Whether rows can be read apart, begin alike, and leave, with the answers that they have together.

    Args:
        model: A causal one, adapted or not.

    Returns:
        True where it computes in float32, keeps keys and values of all tokens and nothing else, and no adapter adds
        some of its own.
    """
    if _core(model).dtype != torch.float32:
        return False
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
    begin: int
    """Tokens of the prompts."""
    cache: DynamicCache
    """What the model keeps of them, but for what it has not read yet; of written ones that is the last token."""


@torch.no_grad()
def likeliest(
    model: Any,
    prompts: torch.Tensor,
    mask: torch.Tensor,
    *,
    limit: int,
    pad: int,
    criterion: Callable[[int], StopsByRow],
) -> torch.Tensor:
    """Write, always the likeliest token.

    Args:
        model: In evaluation mode, of those that `can_be_divided`.
        prompts: Token ids of shape (rows, tokens), padded on the left.
        mask: Of the same shape: 0 for padding.
        limit: Tokens of prompt and answer together.
        pad: Token behind an answer that is done.
        criterion: Makes of the tokens of a prompt what says when a row is done, beside the model's own end.

    Returns:
        Prompts and answers, of shape (rows, tokens up to the end of the longest answer).
    """
    texts = [row[kept.bool()] for row, kept in zip(prompts, mask, strict=True)]
    beginning = _beginning(model, texts)
    unread = max(map(len, texts)) - beginning.get_seq_length()
    going, go_on = torch.arange(len(texts), device=prompts.device), partial(_go_on, model, pad=pad, criterion=criterion)
    read = [
        go_on(_padded([texts[row] for row in some], beginning, pad), 1) for some in going.split(max(1, READ // unread))
    ]
    rows, done = _below_each_other([rows for rows, _ in read], pad), torch.cat([done for _, done in read])
    room = limit - prompts.shape[1]
    answers = prompts.new_full((len(texts), room), pad)
    while True:
        written = rows.ids[:, rows.begin :]
        answers[going, : written.shape[1]] = written
        left = _without(done)
        if not len(left) or written.shape[1] == room:
            return torch.cat([prompts, answers[:, : written.shape[1]]], 1)
        if len(left) < len(going):
            rows.cache.batch_select_indices(left)
            rows, going = replace(rows, ids=rows.ids[left], mask=rows.mask[left]), going[left]
        rows, done = go_on(rows, min(PART, room - written.shape[1]))


def _beginning(model: Any, texts: Sequence[torch.Tensor]) -> DynamicCache:
    # What a model keeps of the tokens that all texts begin with; of few, or of a single text, nothing.
    cache = growing_cache(_core(model).config.get_text_config())
    shortest = min(map(len, texts))
    heads = torch.stack([text[: shortest - 1] for text in texts])  # something must be left to go on from
    common = int((heads == heads[0]).all(0).int().cumprod(0).sum())
    if len(texts) > 1 and common >= WORTH:
        few = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(_core(model).forward).parameters else {}
        model(input_ids=heads[:1, :common], past_key_values=cache, use_cache=True, **few)
    return cache


def _padded(texts: Sequence[torch.Tensor], beginning: DynamicCache, pad: int) -> _Rows:
    # Each text as `what all begin with, padding, the rest`; one alone has no padding, which makes reading it cheaper.
    common, longest = beginning.get_seq_length(), max(map(len, texts))
    ids = texts[0].new_full((len(texts), longest), pad)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        rest = longest - len(text) + common
        ids[row, :common], ids[row, rest:] = text[:common], text[common:]
        mask[row, :common] = mask[row, rest:] = 1
    return _Rows(ids, mask, longest, repeated(beginning, len(texts)))


def _go_on(
    model: Any, rows: _Rows, more: int, *, pad: int, criterion: Callable[[int], StopsByRow]
) -> tuple[_Rows, torch.Tensor]:
    # So many tokens more, or fewer if all rows are done; and which rows are.
    stops, before = criterion(rows.begin), rows.ids.shape[1]
    found = model.generate(
        input_ids=rows.ids,
        attention_mask=rows.mask,
        past_key_values=rows.cache,
        max_length=before + more,
        pad_token_id=pad,
        use_cache=True,
        do_sample=False,
        stopping_criteria=[stops],
        return_dict_in_generate=True,
    )
    written = found.sequences[:, before:]
    done = stops.done | torch.isin(written, _ends(model).to(written.device)).any(1)
    mask = torch.cat([rows.mask, torch.ones_like(written)], 1)
    return _Rows(found.sequences, mask, rows.begin, found.past_key_values), done


def _below_each_other(parts: Sequence[_Rows], pad: int) -> _Rows:
    # Each with one token that it has written; shorter ones are padded on the left.
    if len(parts) == 1:
        return parts[0]
    begin = max(part.begin for part in parts)
    ids = torch.cat([torch.nn.functional.pad(part.ids, (begin - part.begin, 0), value=pad) for part in parts])
    mask = torch.cat([torch.nn.functional.pad(part.mask, (begin - part.begin, 0)) for part in parts])
    return _Rows(ids, mask, begin, joined([part.cache for part in parts]))


def _without(done: torch.Tensor) -> torch.Tensor:
    # The rows that go on; the places of those that do not are taken by the last ones, so that few must be moved.
    going = (~done).nonzero().squeeze(1)
    left = torch.arange(len(going), device=done.device)
    left[done[: len(going)]] = going[going >= len(going)]
    return left


def _core(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _ends(model: Any) -> torch.Tensor:
    end = model.generation_config.eos_token_id
    return torch.tensor(end if isinstance(end, list) else [end] if end is not None else [], dtype=torch.long)
