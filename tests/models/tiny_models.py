"""Random models of every architecture in the table, a few numbers wide, and what is linear in their blocks."""

import re

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)
from transformers.pytorch_utils import Conv1D

from spectral_ft.models.architectures import ARCHITECTURES

PLAIN = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = PLAIN | {"num_key_value_heads": 2, "head_dim": 2}
EXPERTS = GROUPED | {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 6}
SIZES = {
    "phi3": GROUPED | {"pad_token_id": 0},
    "mixtral": GROUPED | {"num_local_experts": 3},
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 10},
    "qwen3_moe": EXPERTS | {"mlp_only_layers": [0]},  # one dense block, one of experts
    "gpt2": {"vocab_size": 32, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16},
    "falcon": {"vocab_size": 32, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4},
    "gpt_neox": PLAIN,
    "bert": PLAIN,
    "t5": {"vocab_size": 32, "d_model": 8, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 2},
}
KINDS = {"bert": AutoModelForSequenceClassification, "t5": AutoModelForSeq2SeqLM}
MODEL_TYPES = tuple(ARCHITECTURES)


def model_of(model_type, **sizes):
    """A random model, the same one at each call."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **SIZES.get(model_type, GROUPED) | sizes)
    return KINDS.get(model_type, AutoModelForCausalLM).from_config(config)


def linear_weights(model):
    """Module path to weight (d_out, d_in) of what is linear in a block; the experts of a module one by one.

    Experts are named as files keep them: `PATH.NUMBER.gate_proj`, gate and up apart.
    """
    parts = {"gate": "w1", "up": "w3", "down": "w2"} if model.config.model_type == "mixtral" else {}
    found = {}
    for name, module in model.named_modules():
        if not re.search(r"\.\d+\.", name):
            continue
        kind = type(module).__name__
        if isinstance(module, torch.nn.Linear):
            found[name] = module.weight
        elif isinstance(module, Conv1D):
            found[name] = module.weight.T
        elif kind.endswith("Experts"):
            for parameter, stacked in module.named_parameters():
                halves = parameter.removesuffix("_proj").split("_")
                for number, weight in enumerate(stacked):
                    for half, piece in zip(halves, weight.chunk(len(halves)), strict=True):
                        found[f"{name}.{number}.{parts.get(half, f'{half}_proj')}"] = piece
        elif kind.endswith("Router"):
            found[name] = module.weight
    return {name: weight.detach() for name, weight in found.items()}


def singular_values(weight):
    """By torch, in float64."""
    return torch.linalg.svdvals(weight.double()).numpy()
