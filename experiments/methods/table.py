"""Every method on the embedded model: trained, scored, saved, read back by a new process, exported. One table.

    python experiments/methods/table.py [--steps 200] [--methods lora dora ...]

Leaves experiments/methods/table.md and measured.json. About 20 minutes on two cores.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from hydra.core.global_hydra import GlobalHydra

from spectral_ft.compose import build_experiment, composed
from spectral_ft.configuration import CONF
from spectral_ft.pipeline import run
from spectral_ft.training import train as training

HERE = Path(__file__).parent
IDS = torch.arange(3, 43).reshape(2, 20)
READ_BACK = """
import sys, torch
from pathlib import Path
from spectral_ft.adapters.opening import open_adapter
from spectral_ft.compose import build_experiment, composed
from spectral_ft.stages.base import load_base
experiment = build_experiment(composed(sys.argv[3:]))
model = open_adapter(load_base(experiment, experiment.model.locate()), Path(sys.argv[1]))
with torch.no_grad():
    torch.save(model(input_ids=torch.arange(3, 43).reshape(2, 20)).logits, sys.argv[2])
"""
HEADINGS = (
    "method", "trained", "of all, %", "matrices", "exact match, %", "loss", "train s", "read back: logits differ by",
    "merged: logits differ by",
)  # fmt: skip


def measured(method: str, *, steps: int, folder: Path) -> dict[str, Any]:
    """One method from end to end."""
    options = [f"method={method}", f"training.max_steps={steps}", "tracking.mode=disabled"]
    logits: list[torch.Tensor] = []
    original = training.train

    def watched(trained: Any, *arguments: Any, **named: Any) -> Any:
        outcome = original(trained, *arguments, **named)
        trained.model.eval()
        with torch.no_grad():
            logits.append(trained.model(input_ids=IDS).logits.clone())
        return outcome

    training.train = watched
    try:
        result = run(build_experiment(composed(options)), folder)
    finally:
        training.train = original
        GlobalHydra.instance().clear()
    stage = "tuned" if result.train else "base"
    found = {
        "method": method,
        "plan": result.plan,
        "train": None if result.train is None else {k: v for k, v in result.train.items() if k != "rounds"},
        "exact_match": next(score.value for score in result.scores if score.stage == stage),
        "n": result.scores[0].n,
    }
    if logits:
        again = folder / "logits.pt"
        subprocess.run([sys.executable, "-c", READ_BACK, str(folder / "adapter"), str(again), *options], check=True)
        found["read_back"] = float((torch.load(again, weights_only=True) - logits[0]).abs().max())
    exported = subprocess.run(
        [sys.executable, "-m", "spectral_ft.export", f"run={folder}", "to=[merged]"],
        capture_output=True,
        text=True,
        check=False,
    )
    report = folder / "export" / "export.json"
    found["export"] = json.loads(report.read_text()) if report.exists() else exported.stderr.strip()
    return found


def row(found: dict[str, Any]) -> list[str]:
    """A line of the table."""
    plan, train, export = found["plan"], found["train"] or {}, found["export"]
    merged = _difference(export) if isinstance(export, dict) else "refused: " + export.removeprefix("error: ")
    return [
        found["method"],
        f"{plan['trainable_parameters']:,}",
        f"{plan['trainable_percent']:.2f}",
        f"{plan['adapted_matrices']} of {plan['matrices']}",
        f"{100 * found['exact_match']:.1f}",
        f"{train['final_loss']:.3f}" if train else "-",
        f"{train['seconds']:.0f}" if train else "-",
        f"{found['read_back']:.1g}" if "read_back" in found else "-",
        merged,
    ]


def _difference(export: dict[str, Any]) -> str:
    return f"{export['forms']['merged']['difference']['largest']:.1g}"


def main() -> None:
    """Measure all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--methods", nargs="+", default=sorted(path.stem for path in (CONF / "method").glob("*.yaml")))
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for method in asked.methods:
            rows.append(measured(method, steps=asked.steps, folder=Path(folder) / method))
            print(" | ".join(row(rows[-1])), flush=True)
    lines = [f"| {' | '.join(cells)} |" for cells in (HEADINGS, ["---"] * len(HEADINGS), *map(row, rows))]
    head = (
        f"{asked.steps} steps, seed 0, {rows[0]['n']} test items; one run each, so small differences mean nothing.\n\n"
    )
    (HERE / "table.md").write_text(head + "\n".join(lines) + "\n")
    (HERE / "measured.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
