"""Adapters of the embedded model as stock PEFT writes them, with a B that is not zero."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from tests.conftest import EMBEDDED

ATTENTION = ["q_proj", "v_proj"]


def adapted(seed: int = 0, *, adapter_name: str = "default", targets: Any = ATTENTION, **options: Any) -> PeftModel:
    """The embedded model with an adapter whose factors are random, of several sizes."""
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=targets, **{"r": 4, "lora_alpha": 8, **options})
    model = get_peft_model(base, config, adapter_name=adapter_name)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name:
                scale = 0.02 * (0.5 ** torch.arange(parameter.shape[-1])) if "lora_B" in name else 0.02
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
            if "magnitude" in name:
                parameter.mul_(1.1)
    return model.eval()


def saved(folder: Path, seed: int = 0, **options: Any) -> Path:
    """A folder with such an adapter."""
    adapted(seed, **options).save_pretrained(folder)
    return folder
