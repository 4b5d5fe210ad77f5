"""Principal directions of what matrices read, and how many each deserves: EVA, by PEFT's own implementation.

An incremental SVD follows each matrix's centred inputs, batch after batch and round again, until the directions in use
turn by less than tau. The `rank` times as many directions as there are matrices that explain most of their inputs'
variance are kept, at most `rank rho` of a matrix, perhaps none.

Source: arXiv:2410.07170, algorithm 1.
Departs from PEFT 0.21.2: whitening is applied once to a matrix's directions (there, once for each of the matrices that
read the same tensor, on all of them); a loop that would never end is an error; classifiers and encoder-decoders work.
"""

import itertools
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from peft import EvaConfig, LoraConfig, get_eva_state_dict
from transformers import PreTrainedModel

from spectral_ft.errors import DataError, PlanError
from spectral_ft.probe.modules import evaluate, evaluation_mode, linear_modules, on_device, refuse_none
from spectral_ft.types import IGNORED

MAX_STEPS = 1000
"""Batches after which directions that still turn are an error; with tau = 0.99 about a hundred are usual."""


def principal_inputs(
    model: PreTrainedModel,
    batches: Sequence[Mapping[str, torch.Tensor]],
    names: Sequence[str],
    *,
    rank: int,
    rho: float,
    tau: float,
    whiten: bool,
) -> dict[str, np.ndarray]:
    """Run the batches forward, and find the rows of LoRA's A that EVA would start from.

    Args:
        model: Without adapters, on one device. Nothing of it changes.
        batches: Arguments of its forward. Tokens count that the attention mask has and, where labels are one a token,
            that have one; in an encoder-decoder's decoder, those with a label.
        names: Linear modules, at least one.
        rank: Mean of the ranks.
        rho: At least 1: no rank is above `rank rho`.
        tau: In [0, 1]: a direction has settled when its cosine with itself a batch before is at least this.
        whiten: Divide each direction by the square root of its singular value.

    Returns:
        Name to float32 (its rank, d_in), in the order of the names; the rank may be 0.

    Raises:
        PlanError: If a name is no linear module, does not read one vector a token, or fewer than `rank rho` numbers.
        DataError: If there is no batch, one has fewer tokens than `rank rho`, or the directions do not settle.
    """
    refuse_none(batches)
    modules = linear_modules(model, names)
    told_apart = _lengths_told_apart if model.config.is_encoder_decoder else dict
    config = LoraConfig(
        r=rank,
        target_modules="|".join(re.escape(name) for name in modules),
        init_lora_weights="eva",
        eva_config=EvaConfig(rho=rho, tau=tau, whiten=whiten),
    )
    with evaluation_mode(model), _hooks_as_before(model):
        rows = get_eva_state_dict(
            model,
            [told_apart(on_device(batch, model)) for batch in batches],
            config,
            forward_fn=_bounded_forward(tau=tau),
            prepare_model_inputs_fn=partial(_token_masks, encoder_decoder=model.config.is_encoder_decoder),
            prepare_layer_inputs_fn=partial(_read_by_tokens, components=round(rank * rho)),
            show_progress_bar=sys.stderr.isatty(),
        )
    if whiten:
        rows = _whitened_once(rows)
    return {name: rows[name].float().cpu().numpy() for name in modules}


def _bounded_forward(*, tau: float) -> Callable[[PreTrainedModel, dict[str, torch.Tensor]], Any]:
    steps = itertools.count()

    def forward(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> Any:
        if next(steps) > MAX_STEPS:  # the first looks only for modules that read the same
            raise DataError(
                f"the principal directions of the inputs have not settled after {MAX_STEPS} batches: with tau={tau:g} "
                "they turn on. Lower tau, or give larger calibration batches."
            )
        evaluate(model)  # PEFT has put every module in evaluation mode
        return model(**batch)

    return forward


def _lengths_told_apart(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # What a module of an encoder-decoder reads, source or target, shows in its length; one more masked token where
    # both are equal changes nothing.
    if batch["input_ids"].shape != batch["labels"].shape:
        return batch
    mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
    longer = {"input_ids": batch["input_ids"], "attention_mask": mask}
    return batch | {key: torch.nn.functional.pad(value, (0, 1)) for key, value in longer.items()}


def _token_masks(batch: dict[str, torch.Tensor], config: LoraConfig, *, encoder_decoder: bool) -> list[torch.Tensor]:
    # The tokens that count, (batch, tokens): one mask, or the encoder's and the decoder's.
    del config
    mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
    labels = batch.get("labels")
    if encoder_decoder:
        return [mask, batch["labels"] != IGNORED]
    if labels is None or labels.shape != mask.shape:  # a classifier's labels are one an example
        return [mask]
    return [mask & (labels != IGNORED)]


def _read_by_tokens(
    arguments: tuple[torch.Tensor, ...], masks: list[torch.Tensor], name: str, *, components: int
) -> torch.Tensor:
    # What a module reads, (tokens that count, d_in).
    inputs = arguments[0]
    fitting = [mask for mask in masks if mask.shape == inputs.shape[:-1]]
    if not fitting:
        raise PlanError(
            f"{name} reads a tensor of shape {tuple(inputs.shape)}, not one vector for each of the "
            f"{tuple(masks[0].shape)} tokens of a calibration batch: leave it out."
        )
    read = inputs[fitting[0]]
    if components > read.shape[1]:
        raise PlanError(
            f"{name} reads {read.shape[1]} numbers a token, fewer than the {components} directions that rank times "
            "rho allows: lower one of them."
        )
    if components > len(read):  # PEFT would leave the batch out, and never end where it leaves out all
        raise DataError(
            f"a calibration batch has {len(read)} tokens that count for {name}, fewer than the {components} "
            "directions that rank times rho allows: make the batches larger, or lower one of them."
        )
    return read


def _whitened_once(rows: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # PEFT divides the unit vectors in place, once for each module that reads the same tensor: after n divisions by
    # sqrt(s) a row's length is s^(-n / 2), where s^(-1 / 2) is meant.
    groups: defaultdict[int, list[str]] = defaultdict(list)
    for name, value in rows.items():
        groups[value.untyped_storage().data_ptr()].append(name)
    found = {}
    for members in groups.values():
        ranks = torch.tensor([len(rows[name]) for name in members])
        for name in members:
            lengths = rows[name].norm(dim=1, keepdim=True)
            divisions = (ranks > torch.arange(len(lengths))[:, None]).sum(dim=1, keepdim=True).to(lengths.device)
            found[name] = rows[name] * lengths ** (1 / divisions - 1)
    return found


@contextmanager
def _hooks_as_before(model: torch.nn.Module) -> Iterator[None]:
    # PEFT leaves its hooks where an exception ends it.
    before = {module: set(module._forward_hooks) for module in model.modules()}
    try:
        yield
    finally:
        for module, kept in before.items():
            for key in set(module._forward_hooks) - kept:
                del module._forward_hooks[key]
