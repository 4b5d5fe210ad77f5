"""How far methods move the embedded model's matrices in its main job: one table.

    python experiments/drift/table.py [--methods lora alors sgm] [--seeds 0 1 2] [--steps 200]

Leaves experiments/drift/table.md and measured.json. About a minute a run on two cores.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spectral_ft.compose import build_experiment, composed
from spectral_ft.pipeline import run

HERE = Path(__file__).parent
HEADINGS = (
    "method", "seed", "matrices", "exact match, %", "loss on general text", "norm of the update, Frobenius",
    "spectral", "its stable rank", "mean angle", "largest angle", "intruders left, right",
    "energy in the top, over chance",
)  # fmt: skip
MEDIANS = (
    "relative_frobenius", "relative_spectral", "stable_rank_update", "mean_angle_left", "angle_left", "over_chance"
)  # fmt: skip


def measured(method: str, *, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """One run of the main job, and medians of its drift over the trained matrices."""
    options = [f"method={method}", f"seed={seed}", f"training.max_steps={steps}", "tracking.mode=disabled"]
    result = run(build_experiment(composed([*options, "figures=false"])), folder)
    drift = pd.read_parquet(folder / "drift.parquet")
    drift["over_chance"] = drift["energy"] * drift["rows"] * drift["cols"] / drift["top"] ** 2
    general = result.train["general_loss"]
    return {
        "method": method,
        "seed": seed,
        "steps": steps,
        "matrices": len(drift),
        "exact_match": next(score.value for score in result.scores if score.stage == "tuned"),
        "general_loss": [general["before"], general["after"]],
        "looked_at": int(drift["top"].sum()),
        "intruders_left": int(drift["intruders_left"].sum()),
        "intruders_right": int(drift["intruders_right"].sum()),
        "medians": {name: float(drift[name].median()) for name in MEDIANS},
    }


def row(found: dict[str, Any]) -> list[str]:
    """A line of the table."""
    medians, (before, after) = found["medians"], found["general_loss"]
    return [
        found["method"],
        str(found["seed"]),
        str(found["matrices"]),
        f"{100 * found['exact_match']:.1f}",
        f"{before:.2f} to {after:.2f}",
        f"{medians['relative_frobenius']:.2f}",
        f"{medians['relative_spectral']:.2f}",
        f"{medians['stable_rank_update']:.1f}",
        *(f"{np.degrees(medians[name]):.0f}°" for name in ("mean_angle_left", "angle_left")),
        f"{found['intruders_left']}, {found['intruders_right']} of {found['looked_at']}",
        f"{medians['over_chance']:.1f}",
    ]


def main() -> None:
    """Measure all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["lora", "alors", "sgm"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=200)
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for method in asked.methods:
            for seed in asked.seeds:
                place = Path(folder) / f"{method}-{seed}"
                rows.append(measured(method, seed=seed, steps=asked.steps, folder=place))
                print(" | ".join(row(rows[-1])), flush=True)
    lines = [f"| {' | '.join(cells)} |" for cells in (HEADINGS, ["---"] * len(HEADINGS), *map(row, rows))]
    head = (
        f"{asked.steps} steps. Norms are over those of W; norms, ranks, angles and energies: medians over matrices.\n\n"
    )
    (HERE / "table.md").write_text(head + "\n".join(lines) + "\n")
    (HERE / "measured.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
