"""The whole job at Llama-2-7B's width: `python bench/scale.py --folder SCRATCH [--blocks 8]`.

A checkpoint of Llama-2-7B's shapes is generated in SCRATCH, one shard per block, with random bf16 weights. On it runs
the command of the README, with one optimizer step, the smallest probe and a few evaluation items, on the CPU in 4 bits
with `quantization.on_cpu=packed`. While it runs, wall time, CPU time and memory of all its processes are sampled and
charged to the stage whose file is still missing. Writes `scale.json` and `scale.md` into --out.

A cut run goes on where it was when the same command is called again, and so do its figures.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from measure import _family
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import LlamaConfig

from spectral_ft.storage import replacing

GIB = 2**30
SIZES = {"hidden_size": 4096, "intermediate_size": 11_008, "num_attention_heads": 32, "vocab_size": 32_000}
LIMITS = {"run": 8.0, "spectra": 1.5}
"""GiB that all processes may hold: of the whole run, and of its spectral stage."""
STAGES = (
    ("spectra", "spectrum.parquet"),
    ("probe", "probe.safetensors"),
    ("plan", "plan.json"),
    ("held-out losses of the base", "losses.json"),
    ("training and the losses after it", "train.json"),
    ("scores and record", "result.json"),
)
"""What a stage is called, and the file of the run folder that ends it."""
OPTIONS = (
    *("method=sgm", "model=llama2-7b", "dataset=wordmath", "benchmark=wordmath"),
    *("quantization.on_cpu=packed", "probe.batches=1", "probe.batch_size=1"),
    *("training.max_steps=1", "training.warmup_steps=0", "training.batch_size=1", "training.micro_batch_size=1"),
    *("dataset.limit=16", "dataset.validation=2", "benchmark.limit=2", "benchmark.batch_size=2"),
    *("benchmark.generation={max_gen_toks:4}", "figures=false", "tracking.mode=disabled"),
)


def make_checkpoint(folder: Path, blocks: int) -> None:
    """Write a Llama of the right shapes, one shard at a time; shards that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    hidden, wide, words = SIZES["hidden_size"], SIZES["intermediate_size"], SIZES["vocab_size"]
    shards: list[dict[str, tuple[int, ...]]] = [
        {
            "model.embed_tokens.weight": (words, hidden),
            "model.norm.weight": (hidden,),
            "lm_head.weight": (words, hidden),
        }
    ]
    for block in range(blocks):
        path = f"model.layers.{block}"
        own = {f"{path}.self_attn.{name}_proj.weight": (hidden, hidden) for name in "qkvo"}
        own |= {f"{path}.mlp.{name}_proj.weight": (wide, hidden) for name in ("gate", "up")}
        own |= {f"{path}.mlp.down_proj.weight": (hidden, wide)}
        own |= {f"{path}.{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
        shards.append(own)
    placed, total = {}, 0
    for number, shard in enumerate(tqdm(shards, desc="checkpoint", unit=" shards")):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        placed |= dict.fromkeys(shard, file)
        total += sum(2 * torch.Size(shape).numel() for shape in shard.values())
        if (folder / file).exists():
            continue
        chance = torch.Generator().manual_seed(number)
        tensors = {
            name: torch.ones(shape, dtype=torch.bfloat16)
            if len(shape) == 1
            else torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02, generator=chance)
            for name, shape in shard.items()
        }
        with replacing(folder / file) as part:
            save_file(tensors, part, metadata={"format": "pt"})
    LlamaConfig(
        **SIZES, num_hidden_layers=blocks, max_position_embeddings=4096, dtype="bfloat16", pad_token_id=0
    ).save_pretrained(folder)
    tiny = Path(__file__).parents[1] / "spectral_ft" / "models" / "tiny"
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (tiny / name).exists():
            shutil.copy(tiny / name, folder / name)
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def cpu_seconds(pids: list[int]) -> dict[int, float]:
    """CPU seconds of processes that live, their ended children included."""
    found = {}
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[pid] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return found


def memory(pids: list[int]) -> tuple[int, int]:
    """Bytes that processes hold, shared pages by halves: all of it, and without pages of mapped files."""
    whole = held = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        sizes = {name: 1024 * int(size) for name, size in re.findall(r"^(Pss\w*): +(\d+) kB", text, flags=re.M)}
        whole += sizes["Pss"]
        held += sizes["Pss"] - sizes.get("Pss_File", 0)
    return whole, held


def run(folder: Path, blocks: int, seconds: float, found: dict[str, Any]) -> dict[str, Any]:
    """Run the command, or go on with it, and charge what it takes to its stages.

    Args:
        folder: Scratch.
        blocks: Of the checkpoint.
        seconds: After which it is stopped; it writes a checkpoint then.
        found: What earlier calls found.

    Returns:
        Stage to `wall` and `cpu` seconds, `peak` and `held` bytes; those that are not over yet included.
    """
    place, model = folder / f"run-{blocks}", folder / f"model-{blocks}"
    command = [sys.executable, "-m", "spectral_ft.run", *OPTIONS, f"model.path={model}", f"hydra.run.dir={place}"]
    environment = os.environ | {"SPECTRAL_FT_CACHE": str(folder / f"cache-{blocks}")}
    began = last = time.monotonic()
    spent: dict[int, float] = {}
    with (folder / f"run-{blocks}.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
        try:
            while process.poll() is None:
                stage = next((name for name, file in STAGES if not (place / file).exists()), STAGES[-1][0])
                pids = _family(process.pid)
                now, taken, (whole, held) = time.monotonic(), cpu_seconds(pids), memory(pids)
                one = found.setdefault(stage, {"wall": 0.0, "cpu": 0.0, "peak": 0, "held": 0})
                one["wall"] += now - last
                one["cpu"] += max(0.0, sum(taken.values()) - sum(spent.get(pid, 0.0) for pid in taken))
                one["peak"], one["held"] = max(one["peak"], whole), max(one["held"], held)
                last, spent = now, taken
                if now - began > seconds:
                    return found
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode:
        raise SystemExit(f"the run ended with {process.returncode}: see {log.name}")
    return found


def page(found: dict[str, Any]) -> str:
    """The Markdown page."""
    stages = found["stages"]
    ended = found["ended"]
    peak, held = (max(one[key] for one in stages.values()) / GIB for key in ("peak", "held"))
    spectra = stages.get("spectra", {"peak": 0})["peak"] / GIB
    lines = [
        f"# The whole job at Llama-2-7B's width, {found['blocks']} of 32 blocks",
        "",
        f"{found['date']}, {found['cores']} cores{', busy with other programs' if found['busy'] else ''}; "
        f"{', '.join(f'{name} {number}' for name, number in found['versions'].items())}. "
        f"`make bench-scale BLOCKS={found['blocks']}` makes this file.",
        "",
        f"A generated checkpoint ({found['bytes'] / GIB:.1f} GiB of random bf16, one shard per block); the base in NF4 "
        "on a CPU, never dequantized as a whole. The command, with the paths of the scratch folder left out:",
        "",
        "```",
        "python -m spectral_ft.run " + " ".join(OPTIONS),
        "```",
        "",
        "| stage | wall s | CPU s | peak GiB | without mapped files |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {one['wall']:.0f} | {one['cpu']:.0f} | {one['peak'] / GIB:.2f} | {one['held'] / GIB:.2f} |"
            for name, one in stages.items()
        ),
        f"| all | {sum(o['wall'] for o in stages.values()):.0f} | {sum(o['cpu'] for o in stages.values()):.0f} "
        f"| {peak:.2f} | {held:.2f} |",
        "",
        "Memory is that of all processes of the run (PSS); pages of files that are mapped count in the peak, though "
        "the system drops them whenever it wants the room.",
        "",
        "| promise | bound, GiB | measured | kept |",
        "|---|---|---|---|",
        f"| the base is never held in float32: peak of the run | {LIMITS['run']:.1f} | {peak:.2f} | "
        f"{_kept(peak, LIMITS['run'], ended)} |",
        f"| peak of the spectral stage | {LIMITS['spectra']:.1f} | {spectra:.2f} | "
        f"{_kept(spectra, LIMITS['spectra'], True)} |",
        "",
        f"In float32 the base alone would take {found['parameters'] * 4 / GIB:.1f} GiB.",
        "" if ended else "\nThe run is not over: the same command goes on with it.\n",
        "Time of the spectra, of a training step and of a token grow with the number of blocks; the packed base takes "
        "0.10 GiB per block, embeddings and head 0.98 GiB in float32 whatever the number of blocks. The memory of the "
        "spectral stage does not grow: one matrix per worker is in memory.",
    ]
    return "\n".join(lines).rstrip() + "\n"


def _kept(measured: float, bound: float, ended: bool) -> str:
    return "no" if measured > bound else "yes" if ended else "so far"


def main() -> None:
    """The command."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--folder", type=Path, required=True, help="scratch: 1 GB, and 0.4 per block")
    words.add_argument("--blocks", type=int, default=8)
    words.add_argument("--hours", type=float, default=3.0, help="until it is stopped; a further call goes on")
    words.add_argument("--busy", action="store_true", help="say on the page that other programs ran")
    words.add_argument("--out", type=Path, default=Path(__file__).parent)
    asked = words.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the run is stopped too
    folder = asked.folder.expanduser().absolute()
    make_checkpoint(folder / f"model-{asked.blocks}", asked.blocks)
    kept = folder / f"scale-{asked.blocks}.json"
    earlier = json.loads(kept.read_text()) if kept.exists() else {}
    stages = earlier.get("stages", {})
    size = sum(file.stat().st_size for file in (folder / f"model-{asked.blocks}").glob("*.safetensors"))
    result = {
        "date": f"{date.today():%d %B %Y}",
        "blocks": asked.blocks,
        "bytes": size,
        "parameters": size // 2,
        "cores": len(os.sched_getaffinity(0)),
        "busy": asked.busy or earlier.get("busy", False),
        "versions": {name: version(name) for name in ("torch", "transformers", "bitsandbytes")},
        "stages": stages,
    }
    try:
        run(folder, asked.blocks, 3600 * asked.hours, stages)
    finally:
        result["ended"] = (folder / f"run-{asked.blocks}" / "result.json").exists()
        kept.write_text(json.dumps(result, indent=1) + "\n")
    (asked.out / "scale.json").write_text(json.dumps(result, indent=1) + "\n")
    (asked.out / "scale.md").write_text(page(result))
    print(page(result))


if __name__ == "__main__":
    main()
