"""What a classifier says of texts, as numbers.

Known gaps: a text beyond the model's context is cut at its end; a line of the log counts them.
"""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from spectral_ft.errors import CheckpointError, ConfigError

log = logging.getLogger(__name__)


@torch.no_grad()
def class_logits(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    task: str,
    classes: int,
    batch_size: int,
    context: int | None,
) -> np.ndarray:
    """The logits of every class for every text.

    Args:
        model: Classifier, in evaluation mode.
        tokenizer: Its tokenizer.
        texts: At least one.
        task: Name of the benchmark, for the log and for errors.
        classes: How many labels the model must have.
        batch_size: Texts at a time; those of like length are put together.
        context: Most tokens the model takes; None leaves it to the tokenizer.

    Returns:
        float64, (texts, classes), in the order of the texts.

    Raises:
        ConfigError: If the model gives something else than one logit a class.
        CheckpointError: If a logit is NaN or infinite.
    """
    tokens = _tokens(tokenizer, texts, task=task, context=context)
    device = next(model.parameters()).device
    order = sorted(range(len(texts)), key=lambda number: len(tokens[number]))
    found = np.empty((len(texts), classes))
    for start in tqdm(range(0, len(order), batch_size), desc=task, unit="batch", leave=False):
        numbers = order[start : start + batch_size]
        longest = len(tokens[numbers[-1]])
        ids = torch.full((len(numbers), longest), int(tokenizer.pad_token_id))
        mask = torch.zeros_like(ids)
        for row, number in enumerate(numbers):
            ids[row, : len(tokens[number])] = torch.tensor(tokens[number])
            mask[row, : len(tokens[number])] = 1
        logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        if tuple(logits.shape) != (len(numbers), classes):
            raise ConfigError(
                f"benchmark {task} sorts texts into {classes} classes, and the model's logits for {len(numbers)} texts "
                f"have the shape {tuple(logits.shape)}: it is no classifier of {classes} labels. Load it as "
                "model.kind=classifier, or score it on another benchmark."
            )
        found[numbers] = logits.double().cpu().numpy()
    if not np.isfinite(found).all():
        item = int(np.flatnonzero(~np.isfinite(found).all(1))[0])
        raise CheckpointError(
            f"benchmark {task}, item {item}: the model's logits are {found[item].tolist()}. The model is damaged, or "
            "its training diverged."
        )
    return found


def _tokens(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, task: str, context: int | None
) -> list[list[int]]:
    whole: list[list[int]] = tokenizer(list(texts), verbose=False)["input_ids"]
    room = min(length for length in (context, tokenizer.model_max_length) if length is not None)
    if cut := sum(len(ids) > room for ids in whole):
        log.info("benchmark %s: %d of %d texts are cut at %d tokens", task, cut, len(texts), room)
        return list(tokenizer(list(texts), truncation=True, max_length=room)["input_ids"])
    return whole
