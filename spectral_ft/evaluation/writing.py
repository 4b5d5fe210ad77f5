"""The likeliest answers of a batch, at no more cost than they need.

Two things make a batch of long prompts with short answers slow, on a CPU slower than one prompt at a time:

- Examples that all prompts begin with are read again for every prompt. Here they are read once, and what is kept
  of them is repeated for every row. A row is then `examples, padding, question` in the place of `padding, examples,
  question`; positions are counted without padding, so nothing else changes.
- A batch goes on until its last row is done. Here rows that are done leave it every few tokens.

What a model computes is the same up to rounding.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from spectral_ft.evaluation.stopping import StopsByRow

PART = 16
"""Tokens after which rows that are done leave."""
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
    ids, mask, cache = _begun(model, prompts, mask, pad)
    begin = ids.shape[1]
    answers = ids.new_full((len(ids), limit - begin), pad)
    going, ends = torch.arange(len(ids), device=ids.device), _ends(model).to(ids.device)
    while len(going) and ids.shape[1] < limit:
        stops = criterion()
        found = model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            max_length=min(ids.shape[1] + PART, limit),
            pad_token_id=pad,
            use_cache=True,
            do_sample=False,
            stopping_criteria=[stops],
            return_dict_in_generate=True,
        )
        ids, cache = found.sequences, found.past_key_values
        answers[going, : ids.shape[1] - begin] = ids[:, begin:]
        rest = (~(stops.done | torch.isin(ids[:, begin:], ends).any(1))).nonzero().squeeze(1)
        mask = torch.cat([mask, mask.new_ones((len(mask), ids.shape[1] - mask.shape[1]))], 1)[rest]
        cache.batch_select_indices(rest)
        ids, going, longest = ids[rest], going[rest], ids.shape[1]
    return torch.cat([prompts, answers[:, : longest - begin]], 1)


def _begun(
    model: Any, prompts: torch.Tensor, mask: torch.Tensor, pad: int
) -> tuple[torch.Tensor, torch.Tensor, DynamicCache | None]:
    # Rows in another order, and what the model keeps of the tokens that all begin with; unchanged where these are few.
    rows = [row[kept.bool()] for row, kept in zip(prompts, mask, strict=True)]
    shortest = min(map(len, rows))
    heads = torch.stack([row[: shortest - 1] for row in rows])  # something must be left to go on from
    alike = (heads == heads[0]).all(0)
    common = int(alike.int().cumprod(0).sum())
    if len(rows) == 1 or common < WORTH:
        return prompts, mask, None
    few = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(_core(model).forward).parameters else {}
    cache = model(input_ids=rows[0][None, :common], use_cache=True, **few).past_key_values
    cache.batch_repeat_interleave(len(rows))
    ids, kept = torch.full_like(prompts, pad), torch.zeros_like(mask)
    ids[:, :common], kept[:, :common] = rows[0][:common], 1
    for place, row in enumerate(rows):
        rest = len(row) - common
        ids[place, -rest:], kept[place, -rest:] = row[common:], 1
    return ids, kept, cache


def _core(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _ends(model: Any) -> torch.Tensor:
    end = model.generation_config.eos_token_id
    return torch.tensor(end if isinstance(end, list) else [end] if end is not None else [], dtype=torch.long)
