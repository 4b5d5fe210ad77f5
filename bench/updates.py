"""CPU time and memory of auditing one adapter, here and by gradience, and whether both say the same.

    python bench/updates.py            # writes bench/updates.md; the adapter takes 640 MB in a temporary folder

The adapter has rank 64 on the 224 matrices of Llama-2-7B's shapes, random factors, in float32.
"""

import importlib.metadata
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.measure import Cost, in_process, timed
from spectral_ft.models.adapter_files import CONFIG, PREFIX, WEIGHTS

RANK, BLOCKS, ALPHA = 64, 32, 128
SIDES = {
    **{f"self_attn.{kind}_proj": (4096, 4096) for kind in "qkvo"},
    **{f"mlp.{kind}_proj": (11008, 4096) for kind in ("gate", "up")},
    "mlp.down_proj": (4096, 11008),
}
RESULT = Path(__file__).with_suffix(".md")
COMMON = {
    "spectral_norm": "delta_sigma_max",
    "frobenius_norm": "delta_fro_norm",
    "stable_rank": "stable_rank",
    "effective_rank": "effective_rank",
    "rank_90": "energy_rank_90",
    "rank_95": "energy_rank_95",
    "rank_99": "energy_rank_99",
}
"""Our column to gradience's field."""
REPEATS = 3


def write(folder: Path) -> None:
    """The adapter: factors whose product has a spectrum that falls."""
    generator, tensors = np.random.default_rng(0), {}
    for block in range(BLOCKS):
        for kind, (rows, cols) in SIDES.items():
            name = f"{PREFIX}model.layers.{block}.{kind}"
            decay = (0.9 ** np.arange(RANK)).astype(np.float32)
            a = generator.standard_normal((RANK, cols), dtype=np.float32) / np.float32(np.sqrt(cols))
            tensors[f"{name}.lora_A.weight"] = a
            tensors[f"{name}.lora_B.weight"] = generator.standard_normal((rows, RANK), dtype=np.float32) * decay / 64
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": [k.split(".")[1] for k in SIDES]}
    (folder / CONFIG).write_text(json.dumps(config))


def ours(folder: Path) -> Callable[[], None]:
    from spectral_ft.models.adapter_files import AdapterFiles
    from spectral_ft.stages.updates import audited

    return lambda: audited(AdapterFiles(folder)).to_parquet(folder.parent / "ours.parquet")


def peers(folder: Path) -> Callable[[], None]:
    from gradience.vnext.audit.lora_audit import audit_lora_peft_dir

    return lambda: keep(audit_lora_peft_dir(folder), folder)


def keep(found: Any, folder: Path) -> None:
    rows = [
        {"name": layer.name, **{column: getattr(layer, column) for column in COMMON.values()}} for layer in found.layers
    ]
    pd.DataFrame(rows).to_parquet(folder.parent / "peers.parquet")


def differences(folder: Path) -> dict[str, float]:
    """The largest relative difference of each number that both have."""
    one, other = (pd.read_parquet(folder / f"{side}.parquet") for side in ("ours", "peers"))
    other["name"] = other["name"].str.removeprefix(PREFIX)
    both = one.merge(other, on="name", suffixes=("", "_peer"), validate="one_to_one")
    if len(both) != len(one):
        raise SystemExit(f"only {len(both)} of {len(one)} names are the same")
    found = {}
    for column, field in COMMON.items():
        theirs = both[f"{field}_peer" if f"{field}_peer" in both else field]
        found[column] = float((both[column] / theirs - 1).abs().max())
    return found


def median(side: str, folder: Path) -> Cost:
    costs = [in_process([__file__, side, str(folder)], threads=1) for _ in range(REPEATS)]
    return Cost(*(float(np.median(values)) for values in zip(*costs, strict=True)))


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "adapter"
        folder.mkdir()
        write(folder)
        size = (folder / WEIGHTS).stat().st_size / 2**20
        rows = {"spectral_ft": median("ours", folder)}
        has_peer = importlib.util.find_spec("gradience") is not None
        if has_peer:
            rows[f"gradience {importlib.metadata.version('gradience')}"] = median("peers", folder)
        same = differences(Path(place)) if has_peer else {}
    lines = [
        "# Auditing an adapter",
        "",
        f"Rank {RANK} on {BLOCKS * len(SIDES)} matrices of Llama-2-7B's shapes, {size:.0f} MiB in float32, one thread, "
        f"medians of {REPEATS} runs. CPU seconds include reading the file; imports are not in "
        "them.",
        "",
        "| | CPU s | wall s | peak MiB |",
        "|---|---|---|---|",
        *(f"| {name} | {cost.cpu:.1f} | {cost.wall:.1f} | {cost.peak:.0f} |" for name, cost in rows.items()),
        "",
    ]
    if same:
        ours_cost, peer = rows.values()
        lines += [
            f"Ratio of CPU time: {peer.cpu / ours_cost.cpu:.1f}. The largest relative difference of a number that both "
            "have, over all matrices:",
            "",
            "| column | difference |",
            "|---|---|",
            *(f"| `{column}` | {value:.1e} |" for column, value in same.items()),
            "",
        ]
    RESULT.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        timed({"ours": ours, "peers": peers}[sys.argv[1]](Path(sys.argv[2])))
    else:
        main()
