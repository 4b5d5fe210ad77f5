"""How many items are scored at a time, where nobody says.

The harness's own search runs the model at its whole context, five times for every size from the largest down, and on a
CPU never meets the end of memory that it looks for. Here a batch is what fits into a share of the free memory by

    bytes of an item = beams * length * (keys and values + widest activations) + tokens with logits * vocabulary,

and where the estimate was too bold and memory runs out, half as many are tried.
"""

from typing import Any

import torch

LARGEST, LARGEST_ON_GPU = 32, 256
"""Items at a time. On a CPU padding costs more beyond it than the larger products gain (docs/benchmarks.md); a GPU has
many more products to do at the same time."""
SHARE = 0.4
"""Of the free memory: what is estimated leaves out what the libraries hold for a moment."""
ACTIVATIONS = 12
"""Widths of a token that one block holds at a time: hidden and intermediate ones, with copies."""


def largest_batch(device: torch.device) -> int:
    """The most items at a time, whatever fits.

    Args:
        device: Where the model is.

    Returns:
        A power of two.
    """
    return LARGEST if device.type == "cpu" else LARGEST_ON_GPU


def items_at_once(
    config: Any,
    *,
    length: int,
    with_logits: int,
    beams: int,
    entry: int,
    free: int,
    largest: int = LARGEST,
) -> int:
    """Items that fit.

    Args:
        config: Of the model.
        length: Tokens of the longest item with its answer.
        with_logits: Tokens whose logits are held: all of a scored text, the last one of a written one.
        beams: Written side by side.
        entry: Bytes of a number.
        free: Bytes of free memory; less than none is none.
        largest: Not more, whatever fits.

    Returns:
        A power of two, at least 1.
    """
    heads = getattr(config, "num_attention_heads", 1) or 1
    shared = getattr(config, "num_key_value_heads", None) or heads
    hidden = int(config.hidden_size)
    cache = 2 * int(config.num_hidden_layers) * hidden * shared // heads
    token = (cache + ACTIVATIONS * max(hidden, int(getattr(config, "intermediate_size", None) or 4 * hidden))) * entry
    logits = with_logits * int(config.vocab_size) * (entry + 4)  # and their logarithms, in float32
    fitting = int(SHARE * max(0, free)) // (beams * (length * token + logits))
    return 1 << max(0, min(fitting, largest).bit_length() - 1)
