"""Do gradients of different matrices look alike? The figure and the numbers of docs/sgm.md.

    python experiments/sgm/similarity.py --model SMOLLM2_FOLDER --data GSM8K_FOLDER

Leaves docs/figures/sgm-similarity.png and experiments/sgm/measured.json.
"""

import argparse
import json
import logging
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from spectral_ft.allocation.similarity import gram_similarities, pair_similarities, split_half_agreement
from spectral_ft.compose import build_experiment, composed
from spectral_ft.experiment import all_parts
from spectral_ft.stages.allocation import plan_of
from spectral_ft.stages.base import base_model
from spectral_ft.stages.reading import what_plans_read
from spectral_ft.types import Probe, SpectralReport

HERE = Path(__file__).parent
FIGURE = HERE.parents[1] / "docs" / "figures" / "sgm-similarity.png"
COSINE, GRAM, SELF, LIMIT = "#8da0b3", "#c8452f", "#1f3b57", "#d59b2d"
ORDER = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "o_proj", "down_proj")
"""Readers of the residual stream, then writers."""
SIMILARITIES = ("gram", "cosine", "snr", "random", "adjacent")


def halves(probe: Probe) -> tuple[Probe, Probe]:
    """The probe over every other batch, and over the rest, on the smaller sketches."""
    first = probe.half_sketches
    size = len(next(iter(first.values())))
    second = {name: sketch[:size, :size] - first[name] for name, sketch in probe.sketches.items()}
    return Probe(probe.ids, {}, sketches=first), Probe(probe.ids, {}, sketches=second)


def by_type(report: SpectralReport, probe: Probe) -> dict[str, dict[str, object]]:
    """What pairs of one module type have in common."""
    matrices = [spectrum.matrix for spectrum in report.matrices]
    block = {matrix.name: matrix.block for matrix in matrices}
    found: dict[str, dict[str, object]] = {kind: {} for kind in ORDER}
    for similarity in ("cosine", "gram"):
        pairs = pair_similarities(matrices, probe, similarity=similarity, by="type")
        once, again = (pair_similarities(matrices, half, similarity=similarity, by="type") for half in halves(probe))
        for kind in ORDER:
            values = np.array([pair.similarity for pair in pairs if pair.label == kind])
            apart = [abs(block[pair.first] - block[pair.second]) for pair in pairs if pair.label == kind]
            both = [[pair.similarity for pair in half if pair.label == kind] for half in (once, again)]
            found[kind][similarity] = {
                "pairs": len(values),
                "mean": values.mean(),
                "q90": np.quantile(values, 0.9),
                "max": values.max(),
                "reproducible": spearmanr(*both).statistic,
                "with distance in blocks": spearmanr(values, apart).statistic,
                "values": values,
            }
    agreement = split_half_agreement(probe, [matrix.name for matrix in matrices])
    for kind in ORDER:
        own = [matrix for matrix in matrices if matrix.type == kind]
        both = np.stack([half.sketches[matrix.name] for half in halves(probe) for matrix in own])
        gram = gram_similarities(both, side=own[0].side).diagonal(len(own))
        for similarity, itself in (("cosine", np.array([agreement[m.name] for m in own])), ("gram", gram)):
            found[kind][similarity]["itself"] = {"mean": itself.mean(), "min": itself.min(), "max": itself.max()}
    return found


def groups(overrides: list[str], report: SpectralReport, probe: Probe, base) -> dict[str, dict[str, object]]:
    """How many groups form under each similarity."""
    found = {}
    for similarity in SIMILARITIES:
        parts = build_experiment(composed([*overrides, f"grouping.similarity={similarity}"])).parts
        plan = plan_of(parts, base, report, probe)
        sizes = Counter(Counter(a.group for a in plan.adapted if a.group).values())
        alone = plan_of(
            build_experiment(
                composed([*(o for o in overrides if not o.startswith("grouping.")), "grouping=none"])
            ).parts,
            base,
            report,
            probe,
        )
        found[similarity] = {
            "adapted": len(plan.adapted),
            "grouped": sum(size * count for size, count in sizes.items()),
            "groups": sum(sizes.values()),
            "sizes": {str(size): count for size, count in sorted(sizes.items())},
            "trainable": plan.trainable_parameters,
            "trainable_ungrouped": alone.trainable_parameters,
        }
    return found


def draw(found: dict[str, dict[str, object]], limits: dict[str, float], path: Path) -> None:
    """Distributions of both similarities by module type."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axes, similarity, colour in zip(
        figure.subplots(1, 2, sharey=True), ("cosine", "gram"), (COSINE, GRAM), strict=True
    ):
        draws = np.random.default_rng(0)
        for at, kind in enumerate(ORDER):
            values = found[kind][similarity]["values"]
            axes.scatter(at + draws.uniform(-0.3, 0.3, len(values)), values, s=3, color=colour, alpha=0.5, linewidths=0)
            own = found[kind][similarity]["itself"]
            axes.hlines(
                own["mean"],
                at - 0.38,
                at + 0.38,
                color=SELF,
                linewidth=2,
                label="itself, on two halves" if not at else None,
            )
        axes.axhline(limits[similarity], color=LIMIT, linewidth=1.2, linestyle="--", label="limit of a group")
        axes.set_xticks(range(len(ORDER)), [kind.removesuffix("_proj") for kind in ORDER])
        axes.set_title(f"{similarity}: pairs of matrices of one type", loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e2dd", linewidth=0.6)
        axes.set_axisbelow(True)
    figure.axes[0].set_ylabel("similarity of gradients")
    figure.axes[0].legend(loc="lower left", fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="keeps spectrum.parquet and probe.safetensors for the next call")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    common = [
        "method=sgm",
        "model=smollm2-135m",
        f"model.path={asked.model}",
        "dataset=gsm8k",
        f"dataset.data_dir={asked.data}",
        "quantization=none",
        f"probe.batches={asked.batches}",
    ]
    experiment = build_experiment(composed(common))
    checkpoint = experiment.model.locate()
    with tempfile.TemporaryDirectory() as fresh:
        folder = asked.folder or Path(fresh)
        report, probe = what_plans_read(experiment, checkpoint, parts=all_parts(experiment.parts), folder=folder)
    assert probe is not None
    base = base_model(experiment, checkpoint, tuple(spectrum.matrix for spectrum in report.matrices))
    found = by_type(report, probe)
    every = np.concatenate([found[kind]["gram"]["values"] for kind in ORDER])
    limits = {"cosine": 0.5, "gram": float(np.quantile(every, 0.9))}
    FIGURE.parent.mkdir(exist_ok=True)
    draw(found, limits, FIGURE)
    for kind in ORDER:
        for similarity in ("cosine", "gram"):
            del found[kind][similarity]["values"]
    record = {
        "model": experiment.model.label,
        "batches": asked.batches,
        "examples a batch": experiment.probe.batch_size,
        "limits": limits,
        "types": found,
        "groups": {
            "snr_top, a quarter of each type": groups(common, report, probe, base),
            "all matrices": groups([*common, "rank_policy=uniform"], report, probe, base),
            "all matrices, no limit on SNR": groups(
                [*common, "rank_policy=uniform", "grouping.snr_threshold=1"], report, probe, base
            ),
        },
    }
    text = json.dumps(record, indent=1, default=float)
    (HERE / "measured.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
