"""How many spikes each rule finds in noise, and how many of those that were planted: `make bench-calibration`.

    python bench/calibration.py [--draws 1000] [--model FOLDER] [--out bench]

Every rule sees the same singular values: ours (`num_spikes_calibrated` at the nominal 5 % and 1 %),
LoRA-AR's as in its paper and as in its code, WeightWatcher's `mp_fit` (on fewer matrices, as it is slow),
Spectrum's threshold, and the edge of Gavish and Donoho's median estimator.
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.spectral.bulk import num_spikes, num_spikes_tw
from spectral_ft.spectral.calibrated_bulk import calibrated_bulk
from spectral_ft.spectral.decomposition import singular_values
from spectral_ft.spectral.marchenko_pastur import largest_eigenvalue, quantile
from spectral_ft.spectral.null import shuffled
from spectral_ft.spectral.signal_to_noise import snr_noise_fraction

SHAPES = ((192, 576), (576, 576), (576, 1536), (256, 1024), (512, 1024))
PLANTED_IN = (384, 1024)
PLANTED = (10, 38, 115)
STRENGTHS = (1.5, 4.0)
"""Of the planted singular values, in units of the detection limit `(m n)^(1/4)`."""
WATCHED = 20
"""Matrices of each kind that WeightWatcher sees."""

Shape = tuple[int, int]


def gavish_donoho(s: np.ndarray, shape: Shape) -> float:
    """Spikes above Johnstone's edge, the noise taken from the median singular value (arXiv:1305.5870, section III)."""
    m, n = sorted(shape)
    variance = np.median(s) ** 2 / (n * quantile(0.5, m / n))
    return float(np.count_nonzero(s**2 > variance * largest_eigenvalue(m, n, 0.95)))


RULES = {
    "ours, 5 %": lambda s, shape: calibrated_bulk(s, shape).num_spikes_calibrated,
    "ours, 1 %": lambda s, shape: calibrated_bulk(s, shape, level=0.99).num_spikes_calibrated,
    "LoRA-AR, paper": num_spikes,
    "LoRA-AR, code": num_spikes_tw,
    "Gavish-Donoho": gavish_donoho,
    "Spectrum": lambda s, shape: len(s) * (1 - snr_noise_fraction(s, shape)),
}


def noise(shape: Shape, seed: int, kind: str = "gaussian") -> np.ndarray:
    """Independent entries; `t3` are heavy-tailed, `rows` have unequal variances (log-normal, sigma 0.3)."""
    draw = np.random.default_rng((*shape, seed))
    if kind == "t3":
        return draw.standard_t(3, shape).astype(np.float32)
    entries = draw.standard_normal(shape)
    if kind == "rows":
        entries *= np.exp(0.3 * draw.standard_normal((shape[0], 1)))
    return entries.astype(np.float32)


def planted(count: int, seed: int) -> np.ndarray:
    """Noise of unit variance plus orthogonal directions of known strength."""
    draw = np.random.default_rng((count, seed))
    m, n = PLANTED_IN
    left = np.linalg.qr(draw.standard_normal((m, count)))[0]
    right = np.linalg.qr(draw.standard_normal((n, count)))[0]
    strengths = draw.uniform(*STRENGTHS, count) * (m * n) ** 0.25
    return noise(PLANTED_IN, seed) + ((left * strengths) @ right.T).astype(np.float32)


def counts(matrices: "list[object]", make, label: str) -> pd.DataFrame:
    """The count of each rule on each matrix."""

    def one(key: object) -> dict[str, float]:
        matrix = make(key)
        s = singular_values(matrix)
        return {name: rule(s, matrix.shape) for name, rule in RULES.items()}

    with threadpool_limits(1), ThreadPoolExecutor(2) as pool:
        found = list(tqdm(pool.map(one, matrices), total=len(matrices), desc=label, leave=False))
    return pd.DataFrame(found)


def watched(matrices: dict[str, np.ndarray]) -> list[float]:
    """WeightWatcher's counts; empty where it is not installed."""
    try:
        import peers
        import torch

        columns = peers.weightwatcher_columns(
            {name: torch.from_numpy(matrix) for name, matrix in matrices.items()}, spikes=True
        )
    except ImportError:
        print("weightwatcher is not installed (pip install '.[bench]'): its column is left out", file=sys.stderr)
        return []
    return [row["num_spikes"] for row in columns.values()]


def rate(found: pd.Series) -> str:
    """The share of matrices with a spike, with its 95 % interval."""
    hits, draws = int((found > 0).sum()), len(found)
    interval = binomtest(hits, draws).proportion_ci(method="wilson")
    return f"{100 * hits / draws:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def markdown(title: str, rows: dict[str, dict[str, str]], first: str) -> list[str]:
    names = list(next(iter(rows.values())))
    lines = [f"## {title}", "", f"| {first} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {key} | " + " | ".join(row[name] for name in names) + " |" for key, row in rows.items()]
    return [*lines, ""]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--model", type=Path, default=Path(__file__).parents[1] / "spectral_ft" / "models" / "tiny")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    record: dict[str, dict[str, dict[str, float]]] = {"noise": {}, "planted": {}, "limits": {}}

    false_positives: dict[str, dict[str, str]] = {}
    for shape in SHAPES:
        name = f"{shape[0]} x {shape[1]}"
        found = counts(list(range(arguments.draws)), lambda seed, shape=shape: noise(shape, seed), name)
        cells = {rule: rate(found[rule]) for rule in RULES if rule != "Spectrum"}
        few = watched({str(seed): noise(shape, seed) for seed in range(WATCHED)})
        cells["WeightWatcher"] = f"{np.mean(np.array(few) > 0) * 100:.0f} %, {np.mean(few):.1f} each" if few else "-"
        cells["Spectrum"] = f"{100 * found['Spectrum'].mean() / min(shape):.0f} % of all values"
        false_positives[name] = cells
        record["noise"][name] = {rule: float((found[rule] > 0).mean()) for rule in RULES}
        record["noise"][name]["Spectrum, share"] = float(found["Spectrum"].mean() / min(shape))

    recovered: dict[str, dict[str, str]] = {}
    for count in PLANTED:
        draws = max(arguments.draws // 10, 5)
        found = counts(list(range(draws)), lambda seed, count=count: planted(count, seed), f"{count} planted")
        few = watched({str(seed): planted(count, seed) for seed in range(WATCHED)})
        recovered[str(count)] = {rule: f"{found[rule].mean():.2f}" for rule in RULES}
        recovered[str(count)]["WeightWatcher"] = f"{np.mean(few):.2f}" if few else "-"
        record["planted"][str(count)] = {rule: float(found[rule].mean()) for rule in RULES}

    limits: dict[str, dict[str, str]] = {}
    draws = max(arguments.draws // 5, 5)
    for kind, label in (("t3", "entries of Student's t, 3 degrees"), ("rows", "rows of unequal variance")):
        found = counts(list(range(draws)), lambda seed, kind=kind: noise((192, 576), seed, kind), label)
        limits[label] = {rule: rate(found[rule]) for rule in RULES if rule != "Spectrum"}
        record["limits"][label] = {rule: float((found[rule] > 0).mean()) for rule in RULES}
    model = Checkpoint(arguments.model).block_matrices
    keys = [(matrix, draw) for matrix in model.matrices for draw in range(1 if len(model.matrices) > 100 else 8)]
    label = f"shuffled weights of {arguments.model.name}"
    found = counts(keys, lambda key: shuffled(model.read(key[0]), key[0].name, key[1]), label)
    limits[label] = {rule: rate(found[rule]) for rule in RULES if rule != "Spectrum"}
    record["limits"][label] = {rule: float((found[rule] > 0).mean()) for rule in RULES}

    lines = [
        "# Spikes in noise, and planted ones",
        "",
        f"{date.today()}, {arguments.draws} Gaussian matrices a shape. `make bench-calibration` makes this file.",
        "",
        *markdown("Share of pure-noise matrices in which a spike is found", false_positives, "shape"),
        f"WeightWatcher: {WATCHED} matrices, share with a spike and mean count. Spectrum: what its threshold calls "
        "signal.",
        "",
        *markdown(
            f"Spikes found of those planted, {PLANTED_IN[0]} x {PLANTED_IN[1]}, "
            f"{STRENGTHS[0]:g} to {STRENGTHS[1]:g} times the detection limit",
            recovered,
            "planted",
        ),
        *markdown(
            "Where the assumptions fail: share of matrices without structure in which a spike is found",
            limits,
            "matrices",
        ),
    ]
    print("\n".join(lines))
    (arguments.out / "calibration.md").write_text("\n".join(lines))
    (arguments.out / "calibration.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
