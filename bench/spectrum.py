"""What the spectral stage costs beside the peers: `make bench-spectrum`.

    python bench/spectrum.py [--model FOLDER] [--rounds N] [--large-rounds N] [--out bench]

Two checkpoints: a small real model (SmolLM2-135M, 210 matrices) and one block of Llama-2-7B's shapes with
random bf16 weights in two shards, made in a temporary folder. Every contender reads the same files,
in a process of its own, one after the other, in rounds; of each the median round is reported.
CPU seconds are of the computation, reading included; imports and starting are not, but for the rows
"analyze", which are the whole command.
"""

import argparse
import json
import math
import platform
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from measure import Cost, gemm_rate, in_process, timed

LLAMA_2_7B = {"q_proj": (4096, 4096), "k_proj": (4096, 4096), "v_proj": (4096, 4096), "o_proj": (4096, 4096)}
LLAMA_2_7B_MLP = {"gate_proj": (11008, 4096), "up_proj": (11008, 4096), "down_proj": (4096, 11008)}
ONE_CORE = ("ours", "torch svdvals fp32", "torch svdvals fp64", "scipy svd fp32", "scipy svd fp64")
PEERS = ("spectrum", "lora-ar", "weightwatcher")
LARGE = ("ours", "torch svdvals fp32", "scipy svd fp32", "scipy svd fp64", "spectrum", "lora-ar")


def weights(folder: Path) -> "Iterator[tuple[str, np.ndarray]]":
    """The block matrices, float32, one at a time."""
    from spectral_ft.bfloat16 import widened
    from spectral_ft.models.checkpoint import Checkpoint

    found = Checkpoint(folder).block_matrices
    for matrix in found.matrices:
        yield matrix.name, widened(found.read(matrix)).astype(np.float32, copy=False)


def contender(name: str, folder: Path, workers: int) -> None:
    """One job, timed."""
    if name == "ours":
        from spectral_ft.models.checkpoint import Checkpoint
        from spectral_ft.spectral.analysis import Analysis, analyse

        found = Checkpoint(folder).block_matrices
        shapes = found.matrices
        timed(lambda: analyse(shapes, found.read, cache=None, how=Analysis(workers=workers)))
        return
    if name.startswith("scipy"):
        import scipy.linalg

        dtype = np.float64 if name.endswith("64") else np.float32
        run: Callable[[np.ndarray], object] = lambda w: scipy.linalg.svd(
            w.astype(dtype), compute_uv=False, check_finite=False
        )
        timed(lambda: [run(w) for _, w in weights(folder)])
        return
    import peers
    import torch

    torch.set_num_threads(workers)
    if name == "weightwatcher":
        import weightwatcher  # noqa: F401 - not timed

        timed(lambda: peers.weightwatcher_columns({key: torch.from_numpy(w) for key, w in weights(folder)}))
        return
    jobs: dict[str, Callable[[torch.Tensor], object]] = {
        "torch svdvals fp32": torch.linalg.svdvals,
        "torch svdvals fp64": lambda w: torch.linalg.svdvals(w.double()),
        "spectrum": peers.spectrum_snr,
        "lora-ar": peers.lora_ar,
    }
    timed(lambda: [jobs[name](torch.from_numpy(w)) for _, w in weights(folder)])


def large_checkpoint(folder: Path) -> None:
    """One block of Llama-2-7B's shapes, random bf16, two shards and an index."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    index = {}
    for shard, (part, shapes) in enumerate((("self_attn", LLAMA_2_7B), ("mlp", LLAMA_2_7B_MLP)), start=1):
        file = f"model-0000{shard}-of-00002.safetensors"
        tensors = {
            f"model.layers.0.{part}.{name}.weight": (0.02 * torch.randn(shape)).to(torch.bfloat16)
            for name, shape in shapes.items()
        }
        save_file(tensors, folder / file)
        index |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))


def limit(folder: Path) -> float:
    """Operations that a Gram matrix and its tridiagonal form take: m^2 n + 4/3 m^3, over all matrices."""
    from spectral_ft.models.checkpoint import Checkpoint

    sides = [sorted(matrix.sides) for matrix in Checkpoint(folder).matrices]
    return sum(m * m * n + 4 / 3 * m**3 for m, n in sides)


def measured(
    folder: Path, names: tuple[str, ...], both_cores: tuple[str, ...], rounds: int
) -> tuple[dict[str, Cost], float]:
    """The median cost of each contender, and of the GEMM rates between them."""
    script = str(Path(__file__).resolve())
    costs: dict[str, list[Cost]] = defaultdict(list)
    rates = []
    for number in range(rounds):
        jobs = [(name, name, 1) for name in names] + [(f"{name}, 2 cores", name, 2) for name in both_cores]
        for label, name, workers in jobs:
            rates.append(gemm_rate())
            command = [script, "--one", name, "--model", str(folder), "--workers", str(workers)]
            # Our workers are threads of one BLAS thread each; the peers' only parallelism is inside BLAS.
            costs[label].append(in_process(command, threads=1 if name == "ours" else workers))
            _tell(number, label, costs[label][-1])
        with tempfile.TemporaryDirectory() as target:
            options = [f"model.path={folder}", "model=hf", "model.id=bench", "spectrum.cache=false", "figures=false"]
            command = ["-m", "spectral_ft.analyze", *options, f"hydra.run.dir={target}/run"]
            costs["analyze, 2 cores"].append(in_process(command, threads=1))
            _tell(number, "analyze, 2 cores", costs["analyze, 2 cores"][-1])
    return {label: _median(found) for label, found in costs.items()}, statistics.median(rates)


def _median(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))


def _tell(number: int, label: str, cost: Cost) -> None:
    print(
        f"round {number + 1}: {label:24} {cost.cpu:8.2f} CPU s {cost.wall:8.2f} s wall {cost.peak:7.0f} MiB",
        file=sys.stderr,
    )


def table(title: str, costs: dict[str, Cost], bound: float) -> list[str]:
    """Markdown."""
    lines = [f"## {title}", "", "| contender | CPU s | wall s | peak MiB | x the limit |", "|---|---|---|---|---|"]
    for label, cost in costs.items():
        lines.append(f"| {label} | {cost.cpu:.2f} | {cost.wall:.2f} | {cost.peak:.0f} | {cost.cpu / bound:.2f} |")
    return [*lines, ""]


def ratios(small: dict[str, Cost], large: dict[str, Cost], bound: float) -> dict[str, tuple[float, float, float]]:
    """What was asked for: measured, bar, goal."""
    together = sum(small[f"{name}, 2 cores"].wall for name in PEERS if f"{name}, 2 cores" in small)
    found = {
        "CPU time, all metrics over torch svdvals fp32, small model": (
            small["ours"].cpu / small["torch svdvals fp32"].cpu,
            0.50,
            0.40,
        ),
        "wall time over Spectrum's, both cores, small model": (
            small["ours, 2 cores"].wall / small["spectrum, 2 cores"].wall,
            0.42,
            0.33,
        ),
    }
    if all(f"{name}, 2 cores" in small for name in PEERS):
        found["wall time over Spectrum + LoRA-AR + WeightWatcher, both cores, small model"] = (
            small["ours, 2 cores"].wall / together,
            0.12,
            0.10,
        )
    if large:
        found["CPU time over Spectrum's, 7B shapes"] = (large["ours"].cpu / large["spectrum"].cpu, 0.42, 0.30)
        found["CPU time over the float64 limit, 7B shapes"] = (large["ours"].cpu / bound, 2.2, 1.5)
    found["GiB of `analyze`, small model"] = (small["analyze, 2 cores"].peak / 1024, 0.8, math.nan)
    if large:
        found["GiB of `analyze`, 7B shapes"] = (large["analyze, 2 cores"].peak / 1024, 1.5, math.nan)
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path(__file__).parents[2] / "models" / "smollm2-135m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large-rounds", type=int, default=1, help="0 leaves the 7B shapes out")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        contender(arguments.one, arguments.model, arguments.workers)
        return
    if not (arguments.model / "config.json").is_file():
        sys.exit(f"{arguments.model} holds no model: name a folder with --model (make bench-spectrum MODEL=FOLDER)")
    try:
        watched = PEERS if version("weightwatcher") else ()
    except ImportError:
        watched = PEERS[:2]
        print("weightwatcher is not installed (pip install '.[bench]'): its rows are left out", file=sys.stderr)
    small, rate = measured(arguments.model, (*ONE_CORE, *watched), ("ours", *watched), arguments.rounds)
    small_bound = limit(arguments.model) / rate
    large: dict[str, Cost] = {}
    large_bound = large_rate = math.nan
    if arguments.large_rounds:
        with tempfile.TemporaryDirectory() as folder:
            large_checkpoint(Path(folder))
            large, large_rate = measured(Path(folder), (*LARGE, *watched[2:]), (), arguments.large_rounds)
            large_bound = limit(Path(folder)) / large_rate
    found = ratios(small, large, large_bound)
    heading = [
        "# What the spectral stage costs",
        "",
        f"{date.today()}, {platform.machine()}, one or two cores; numpy {version('numpy')}, scipy {version('scipy')}, "
        f"torch {version('torch')}. The limit is m^2 n + 4/3 m^3 operations over the GEMM rate of one core, measured "
        f"between the contenders: {rate / 1e9:.1f} GFLOP/s float64 (small), {large_rate / 1e9:.1f} (7B shapes). "
        "`make bench-spectrum` makes this file.",
        "",
        "| ratio | measured | bar | goal |",
        "|---|---|---|---|",
        *(f"| {name} | {value:.3f} | {bar:g} | {goal:g} |" for name, (value, bar, goal) in found.items()),
        "",
    ]
    lines = heading + table(f"{arguments.model.name}, all block matrices", small, small_bound)
    if large:
        lines += table("one block of Llama-2-7B's shapes", large, large_bound)
    text = "\n".join(lines).replace("nan", "-")
    print(text)
    (arguments.out / "spectrum.md").write_text(text)
    rows = {"small": small, "large": large}
    (arguments.out / "spectrum.json").write_text(
        json.dumps(
            {size: {label: cost._asdict() for label, cost in costs.items()} for size, costs in rows.items()}, indent=2
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
