"""What is compared: models, plans, and whether activations are recomputed and the base is in 4 bit."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from spectral_ft.configuration import EMBEDDED_MODEL
from train_parts.jobs import Rows

PARTS = {"all blocks": 0.0, "top half": 0.5, "top quarter": 0.75}
"""Which blocks have adapters: those that lie wholly above a share of the depth."""
METHODS = (
    "rslora",
    "dora",
    "spectraqlora",
    "alors",
    "sgm",
    "lora_ar",
    "adalora",
    "spectrum",
    "full",
    "prefix",
    "ia3",
    "ln_tuning",
)
"""Whose default plans are compared on the embedded model, beside LoRA. PEFT has no bottleneck adapters (`adapter_s`,
`adapter_p`), and EVA is LoRA from another start."""
NOT_RECOMPUTED = ("prefix",)
"""Methods that do not go with recomputation."""
TOKENS = 128
"""Of a sequence."""
BATCH = {"twelve": 4, "embedded": 4, "given": 1}
"""Sequences a step."""


class Row(NamedTuple):
    """One comparison."""

    model: str
    """`twelve`, `embedded`, or `given`: the folder of --model."""
    method: str
    part: str
    """Of `PARTS`; `default plan` leaves the blocks to the method's policy."""
    checkpointing: bool
    nf4: bool

    @property
    def label(self) -> str:
        """What the table calls it, and --rows looks in."""
        switches = [", checkpointing"] * self.checkpointing + [", nf4"] * self.nf4
        return f"{self.model} {self.method}, {self.part}{''.join(switches)}"


def all_rows() -> list[Row]:
    """The table, what matters most first.

    Returns:
        LoRA on the model of twelve blocks, on the embedded and on the given one; every method on the embedded one.
    """
    both = (True, False)
    lora = [
        Row(model, "lora", part, again, nf4)
        for model in ("twelve", "embedded", "given")
        for nf4 in (False, True)
        for again in both
        for part in PARTS
    ]
    methods = [
        Row("embedded", method, "default plan", again, False)
        for again in (False, True)
        for method in METHODS
        if not (again and method in NOT_RECOMPUTED)
    ]
    return lora + methods


def overrides(row: Row, folder: Path) -> list[str]:
    """The configuration of a row, as on the command line.

    Args:
        row: What is compared.
        folder: Of its model.

    Returns:
        Choices and options.
    """
    config = json.loads((folder / "config.json").read_text())
    chosen = [f"method={row.method}", "spectrum.cache=false", f"quantization={'nf4' if row.nf4 else 'none'}"]
    chosen += ["model=tiny"] if row.model == "embedded" else ["model=hf", f"model.path={folder}", "model.dtype=float32"]
    if row.part in PARTS:
        chosen.append(f"rank_policy.lowest_block={math.ceil(PARTS[row.part] * config['num_hidden_layers'])}")
    return chosen


def twelve_blocks(folder: Path) -> None:
    """A Llama of 12 blocks, hidden size 384, with random weights, always the same, and the embedded tokenizer.

    Args:
        folder: Of the checkpoint; made.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 384, "intermediate_size": 1024, "num_attention_heads": 6}
    config = LlamaConfig(vocab_size=1024, num_hidden_layers=12, max_position_embeddings=512, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.fspath(EMBEDDED_MODEL / file), folder / file)


def texts(vocabulary: int, count: int) -> Rows:
    """Random sequences of one length, without padding, always the same.

    Args:
        vocabulary: Of the model.
        count: How many.

    Returns:
        Rows of input_ids, attention_mask and labels, `TOKENS` each.
    """
    import torch

    ids = torch.randint(3, vocabulary, (count, TOKENS), generator=torch.Generator().manual_seed(1)).tolist()
    return Rows({"input_ids": row, "attention_mask": [1] * TOKENS, "labels": list(row)} for row in ids)
