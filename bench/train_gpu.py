"""Training a Llama-2-7B-shaped model in 4 bit on one GPU, ours beside the stock recipe: `python bench/train_gpu.py`.

No download, no configuration: random weights, packed layer by layer, LoRA of rank 32 on five modules, on all blocks and
on the top half, for batches of 16 x 256 and 4 x 2048 tokens. Both sides run the same plain loop over the same batches
under autocast to bfloat16, with activations recomputed; each is built anew, the one before freed. Stock is what PEFT
documents for QLoRA (`prepare_model_for_kbit_training`, then `get_peft_model`) as `Trainer(bf16=True)` runs it: that
preparation makes norms, embeddings and head float32, and autocast computes the products, the head's too, in bfloat16.
Writes `train_gpu.json` into --out.

`--tiny` tries the script on a model of four small blocks, on a CPU too.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from spectral_ft.adapters.lora import add_lora
from spectral_ft.models.device import autocast, compute_device
from spectral_ft.models.loaded import loaded_matrices
from spectral_ft.models.loading import REPACKING
from spectral_ft.training.backward import recompute_activations
from spectral_ft.training.head_loss import fused_head_loss
from spectral_ft.types import AllocationPlan, MatrixAllocation

MODULES = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
RANK = 32
BATCHES = ((16, 256), (4, 2048))
WARM_UP, STEPS = 3, 10
SEVEN = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}


def packed_model(sizes: dict[str, int], vocabulary: int, device: torch.device) -> Any:
    """A Llama with random weights, those of its blocks in NF4 with double quantization.

    Args:
        sizes: Of `LlamaConfig`.
        vocabulary: Tokens.
        device: Where it will run.

    Returns:
        The model, frozen, in bfloat16 (float32 on a CPU) apart from the packed matrices.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, max_position_embeddings=4096, **sizes)).to(dtype)
    for block in model.model.layers:
        for parent in (block.self_attn, block.mlp):
            for name, linear in list(parent.named_children()):
                if isinstance(linear, torch.nn.Linear):
                    d_out, d_in = linear.weight.shape
                    packed = Linear4bit(
                        d_in, d_out, bias=False, compute_dtype=dtype, quant_type="nf4", compress_statistics=True
                    )
                    weight = torch.randn(d_out, d_in, dtype=dtype, device=device).mul_(0.02)
                    packed.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True)
                    setattr(packed, REPACKING, False)  # as `load_model` does
                    setattr(parent, name, packed.to(device))  # which packs it
                    del weight
    for module in model.modules():
        for name, tensor in list(module.named_parameters(recurse=False)):
            if tensor.is_meta:
                value = torch.ones if tensor.ndim == 1 else lambda *shape, **how: torch.randn(*shape, **how) * 0.02
                setattr(module, name, torch.nn.Parameter(value(*tensor.shape, dtype=dtype, device=device)))
    model.tie_weights()
    with device:
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    model.is_loaded_in_4bit = True
    model.requires_grad_(False)
    return model


def ours(model: Any, lowest: int, stack: ExitStack, batch: dict[str, torch.Tensor]) -> Any:
    """Adapted as `stages/training.py` does it."""
    with torch.device("meta"):
        shapes = loaded_matrices(LlamaForCausalLM(model.config)).matrices
    chosen = [m for m in shapes if m.block >= lowest and m.type in MODULES]
    count = sum(RANK * sum(m.sides) for m in chosen)
    plan = AllocationPlan(tuple(MatrixAllocation(m.name, RANK, 2.0 * RANK) for m in chosen), count, count, count)
    adapted = add_lora(
        model,
        plan,
        task_type="CAUSAL_LM",
        heads=(),
        lora_dropout=0.0,
        use_rslora=False,
        use_dora=False,
    )
    recompute_activations(adapted)
    small = {name: value[:1, :64] for name, value in batch.items()}
    assert stack.enter_context(fused_head_loss(adapted, small)), "the loss could not be fused"
    return adapted


def stock(model: Any, lowest: int, stack: ExitStack, batch: dict[str, torch.Tensor]) -> Any:
    """Adapted as PEFT's documentation says for QLoRA."""
    del stack, batch
    prepared = prepare_model_for_kbit_training(model, use_gradient_checkpointing=True)
    blocks = list(range(lowest, model.config.num_hidden_layers))
    config = LoraConfig(
        r=RANK,
        lora_alpha=2 * RANK,
        target_modules=list(MODULES),
        layers_to_transform=blocks,
        layers_pattern="layers",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(prepared, config)


def measure(build: Callable[..., Any], model: Any, lowest: int, size: tuple[int, int], *, steps: int) -> dict[str, Any]:
    """Train some steps.

    Args:
        build: `ours` or `stock`.
        model: Packed.
        lowest: Block with the first adapter.
        size: Sequences and tokens of each.
        steps: That are timed, after `WARM_UP`.

    Returns:
        Median seconds per step, tokens per second, peak bytes, the losses, and the dtype of the head.
    """
    device, cuda = model.device, torch.cuda.is_available()
    mixed = torch.bfloat16 if cuda else None  # what `Trainer(bf16=True)` and `model.dtype=auto` compute in
    chance = torch.Generator().manual_seed(1)
    ids = torch.randint(3, model.config.vocab_size, (WARM_UP + steps, *size), generator=chance)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    losses, times = [], []
    with ExitStack() as stack:
        adapted = build(model, lowest, stack, {"input_ids": ids[0], "labels": ids[0]})
        adapted.train()
        optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-4)
        for batch in tqdm(ids, desc=f"{build.__name__}, from block {lowest}, {size[0]} x {size[1]}", leave=False):
            began = time.perf_counter()
            tokens = batch.to(device)
            with autocast(mixed, device):
                loss = adapted(input_ids=tokens, labels=tokens, use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())  # waits for the device
            times.append(time.perf_counter() - began)
    seconds = sorted(times[WARM_UP:])[steps // 2]
    return {
        "seconds_a_step": seconds,
        "tokens_per_second": size[0] * size[1] / seconds,
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "losses": losses,
        "head": str(adapted.get_base_model().lm_head.weight.dtype),
    }


def main() -> None:
    """The command."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--tiny", action="store_true", help="a model of four small blocks, on a CPU too")
    words.add_argument("--steps", type=int, default=STEPS)
    words.add_argument("--out", type=Path, default=Path(__file__).parent)
    asked = words.parse_args()
    if not (asked.tiny or torch.cuda.is_available()):
        raise SystemExit("bench/train_gpu.py needs a CUDA device; --tiny tries it on a CPU.")
    device = compute_device()
    sizes, vocabulary = (SMALL, 500) if asked.tiny else (SEVEN, 32_000)
    results = []
    for size in ((2, 32),) if asked.tiny else BATCHES:
        for part in (0.0, 0.5):
            lowest = round(part * sizes["num_hidden_layers"])
            row: dict[str, Any] = {"batch": size, "lowest_block": lowest}
            for build in (stock, ours):
                gc.collect()  # PEFT's models are circles: without this two of them would be on the device
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                model = packed_model(sizes, vocabulary, device)
                row[build.__name__] = measure(build, model, lowest, size, steps=asked.steps)
                del model
            ratio = row["ours"]["tokens_per_second"] / row["stock"]["tokens_per_second"]
            print(f"{size[0]} x {size[1]}, from block {lowest}: {ratio:.2f} x the tokens a second of stock")
            results.append(row)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    written = asked.out / "train_gpu.json"
    written.write_text(json.dumps({"device": name, "torch": torch.__version__, "rows": results}, indent=1) + "\n")
    print(written)


if __name__ == "__main__":
    main()
