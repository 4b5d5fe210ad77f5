"""How many items are scored at a time, where nobody says.

The harness's own search runs the model at its whole context, five times for every size from the largest down, and on a
CPU never meets the end of memory that it looks for. Here a batch is what fits into a share of the free memory by

    bytes of an item = beams * length * (keys and values + widest activations) + tokens with logits * vocabulary,

and where the estimate was too bold and memory runs out, half as many are tried.
"""

from pathlib import Path
from typing import Any

import psutil
import torch

LARGEST = 32
"""Items at a time: beyond it padding costs more than the larger products gain (docs/benchmarks.md)."""
SHARE = 0.4
"""Of the free memory: what is estimated leaves out what the libraries hold for a moment."""
ACTIVATIONS = 12
"""Widths of a token that one block holds at a time: hidden and intermediate ones, with copies."""
GROUP = Path("/sys/fs/cgroup")
"""Where a container's limits are."""


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


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken.

    Args:
        device: Where the model is.

    Returns:
        Of the device, or of the machine within the limit that its control group sets, less what the group's processes
        hold; files that the system keeps in memory until it wants the room do not count. Never below 0.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    try:
        limit = (GROUP / "memory.max").read_text().strip()
        used = int((GROUP / "memory.current").read_text())
        kept = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return free
    return max(0, min(free, int(limit) - used + int(kept.get("inactive_file", 0)))) if limit.isdigit() else free
