"""Batches for small random models, and their gradients by autograd itself."""

import copy
import re

import torch
from transformers.pytorch_utils import Conv1D

from spectral_ft.probe.modules import evaluation_mode
from tests.models.tiny_models import model_of

VOCABULARY = 32


def small_model(model_type):
    """Random, trainable, able to compute a loss."""
    model = model_of(model_type)
    model.config.decoder_start_token_id = 0
    if hasattr(model.config, "num_experts_per_tok"):
        model.set_experts_implementation("eager")  # the grouped product knows no float64, nor sides as small as these
    return model


def batch_of(model_type, *, seed, examples=3, tokens=7, targets=5):
    """Random tokens, some of them padding, some without a label, in the form that the architecture takes."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (examples, tokens), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :2] = -100
    if model_type in {"bert", "albert"}:
        labels = torch.arange(examples) % 2
    if model_type == "t5":
        labels = torch.randint(1, VOCABULARY, (examples, targets), generator=generator)
        labels[1, -1] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def linear_names(model):
    """Module paths of what is linear in the blocks."""
    linear = torch.nn.Linear | Conv1D
    return [name for name, m in model.named_modules() if isinstance(m, linear) and re.search(r"\.\d+\.", name)]


def full_gradients(model, batch, names):
    """Module path to dLoss/dW, float64 (d_out, d_in), of a copy in float64 whose weights all require gradients."""
    twin = copy.deepcopy(model).double().requires_grad_(True)
    with evaluation_mode(twin):
        twin(**batch).loss.backward()
    modules = {name: twin.get_submodule(name) for name in names}
    return {name: m.weight.grad.T if isinstance(m, Conv1D) else m.weight.grad for name, m in modules.items()}


class Toy(torch.nn.Module):
    """A model of one's own forward, which returns the loss."""

    def __init__(self, loss, **linears):
        super().__init__()
        self.linears = torch.nn.ModuleDict({name: torch.nn.Linear(*shape) for name, shape in linears.items()})
        self._loss = loss
        self.device = torch.device("cpu")
        self.requires_grad_(False)

    def forward(self, inputs):
        return type("Output", (), {"loss": self._loss(self.linears, inputs)})
