"""The figures of docs/spectra.md and the numbers beside them.

    python experiments/spectra/figures.py --model SMOLLM2_FOLDER

Leaves docs/figures/spectra-*.png and experiments/spectra/measured.json.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from spectral_ft.models.block_matrices import BlockMatrices
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.reporting.report_difference import jaccard, report_difference
from spectral_ft.spectral.analysis import Analysis, analyse
from spectral_ft.spectral.bulk import num_spikes, num_spikes_tw
from spectral_ft.spectral.calibrated_bulk import calibrated_bulk
from spectral_ft.spectral.decomposition import singular_values
from spectral_ft.spectral.marchenko_pastur import density, support
from spectral_ft.spectral.norms import effective_rank, stable_rank
from spectral_ft.spectral.power_law import power_law
from spectral_ft.spectral.signal_to_noise import NORMAL_IQR, snr
from spectral_ft.spectral.tail import alpha_hill, alpha_hill_median, alpha_hill_peak
from spectral_ft.types import SpectralReport

HERE = Path(__file__).parent
TARGET = HERE.parents[1] / "docs" / "figures"
BULK, SIGNAL, LAW, SECOND = "#8da0b3", "#c8452f", "#1f3b57", "#d59b2d"


def panels(count: int, width: float = 3.1, height: float = 2.6):
    figure = Figure(figsize=(width * count, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)
    return figure, list(axes)


def save(figure: Figure, name: str) -> None:
    figure.savefig(TARGET / f"spectra-{name}.png", dpi=120)


def gaussian(m: int, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((m, n))


def planted(m: int, n: int, strengths: np.ndarray, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng((seed, 1))
    left = np.linalg.qr(draw.standard_normal((m, len(strengths))))[0]
    right = np.linalg.qr(draw.standard_normal((n, len(strengths))))[0]
    return gaussian(m, n, seed) + (left * strengths) @ right.T


def thresholds(record: dict) -> None:
    """Spectrum's threshold on pure noise, and the edge where it should be."""
    figure, axes = panels(3)
    for one, (m, n) in zip(axes, ((1024, 1024), (384, 1024), (256, 1024)), strict=True):
        s = singular_values(gaussian(m, n))
        beta = m / n
        low, high = (np.sqrt(end) for end in support(beta))
        x = np.linspace(max(low, 1e-3), high, 300)
        upper, lower = np.quantile(s, [0.75, 0.25])
        threshold = (upper - lower) / NORMAL_IQR * (1 + np.sqrt(beta)) / np.sqrt(n)
        one.hist(s / np.sqrt(n), 50, density=True, color=BULK)
        one.plot(x, 2 * x * density(x**2, beta), color=LAW)
        one.axvline(threshold, color=SECOND, label="Spectrum's threshold")
        one.axvline(high, color=SIGNAL, linestyle="--", label="edge of noise")
        signal = float(np.mean(s / np.sqrt(n) > threshold))
        one.set_title(f"{m} x {n}: {100 * signal:.0f} % called signal", fontsize=9, loc="left")
        one.set_xlim(0)
        one.set_yticks([])
        record[f"{m} x {n}"] = {
            "signal_share": signal,
            "threshold_over_edge": float(threshold / high),
            "iqr_of_law": float((upper - lower) / np.sqrt(n)),
            "snr": snr(s, (m, n)),
        }
    axes[0].legend(fontsize=7, frameon=False)
    figure.supxlabel("singular value / sqrt n, entries of variance 1", fontsize=9)
    save(figure, "threshold")


def bulk() -> None:
    """The calibrated fit: noise, noise with spikes, a spectrum that is not Marchenko-Pastur's."""
    m, n = 384, 1024
    limit = (m * n) ** 0.25
    trained = gaussian(m, n) * np.exp(0.5 * gaussian(m, 1, seed=5))
    cases = {
        "noise": gaussian(m, n),
        "noise and 38 spikes": planted(m, n, np.random.default_rng(3).uniform(1.5, 4, 38) * limit),
        "rows of unequal variance": trained,
    }
    figure, axes = panels(3)
    for one, (title, weights) in zip(axes, cases.items(), strict=True):
        s = singular_values(weights)
        fit = calibrated_bulk(s, (m, n))
        unit = fit.noise_std * np.sqrt(n)
        spikes = int(fit.num_spikes_calibrated)
        beta, shrink = (m - spikes) / (n - spikes), np.sqrt((n - spikes) / n)
        low, high = (np.sqrt(end) for end in support(beta))
        x = np.linspace(low, high, 300)
        bins = np.linspace(0, 3.2, 65)
        weight = np.full(m, 1 / m / (bins[1] - bins[0]))
        one.hist(s / unit, bins, weights=weight, color=BULK)
        one.plot(x * shrink, 2 * x * density(x**2, beta) * (m - spikes) / m / shrink, color=LAW)
        one.axvline(np.sqrt(fit.bulk_edge) / unit, color=SIGNAL, linestyle="--")
        one.set_title(
            f"{title}\n{spikes} spikes, bulk_ks {fit.bulk_ks:.3f}, snr_mp {fit.snr_mp:.2f}", fontsize=9, loc="left"
        )
        one.set_yticks([])
    figure.supxlabel("singular value / (noise_std sqrt n)", fontsize=9)
    save(figure, "bulk")


def spikes(record: dict) -> None:
    """How many of the planted spikes three rules find."""
    m, n = 384, 1024
    limit = (m * n) ** 0.25
    counts = (5, 10, 20, 40, 60, 80, 100, 120, 140)
    found = {"num_spikes_calibrated": [], "num_spikes": []}
    for count in counts:
        s = singular_values(planted(m, n, np.random.default_rng(count).uniform(1.5, 4, count) * limit, seed=count))
        found["num_spikes_calibrated"].append(calibrated_bulk(s, (m, n)).num_spikes_calibrated)
        found["num_spikes"].append(num_spikes(s, (m, n)))
    scales = np.geomspace(1e-3, 1e2, 21)
    s = singular_values(planted(m, n, np.random.default_rng(20).uniform(1.5, 4, 20) * limit, seed=20) * 0.02)
    figure, axes = panels(2, width=4)
    axes[0].plot([0, 140], [0, 140], color=LAW, linewidth=1, linestyle="--")
    axes[0].plot(counts, found["num_spikes_calibrated"], "o-", color=SIGNAL, label="num_spikes_calibrated")
    axes[0].plot(counts, found["num_spikes"], "s-", color=SECOND, label="num_spikes (LoRA-AR, paper)")
    axes[0].set_xlabel("planted", fontsize=9)
    axes[0].set_ylabel("found", fontsize=9)
    axes[0].legend(fontsize=7, frameon=False)
    axes[1].semilogx(scales, [num_spikes(c * s, (m, n)) for c in scales], "s-", color=SECOND, label="num_spikes")
    axes[1].semilogx(
        scales, [num_spikes_tw(c * s, (m, n)) for c in scales], "^-", color=BULK, label="num_spikes_tw (its code)"
    )
    axes[1].semilogx(
        scales,
        [calibrated_bulk(c * s, (m, n)).num_spikes_calibrated for c in scales],
        "o-",
        color=SIGNAL,
        label="num_spikes_calibrated",
    )
    axes[1].set_xlabel("scale of the weights (20 planted)", fontsize=9)
    axes[1].set_ylabel("found", fontsize=9)
    axes[1].legend(fontsize=7, frameon=False)
    save(figure, "spikes")
    record |= {"planted": list(counts), **found}


def tails(model: BlockMatrices, record: dict) -> None:
    """The five exponents of one trained and one shuffled matrix."""
    matrix = next(m for m in model.matrices if m.type == "down_proj" and m.block == 15)
    weights = model.read(matrix)
    from spectral_ft.spectral.null import shuffled

    figure, axes = panels(2, width=4.4, height=3)
    for one, (title, entries) in zip(
        axes,
        {f"{matrix.type}, block 15": weights, "its entries shuffled": shuffled(weights, matrix.name, 0)}.items(),
        strict=True,
    ):
        s = singular_values(entries)
        values = np.sort(s**2)
        above = 1 - np.arange(len(values)) / len(values)
        one.loglog(values, above, ".", markersize=3, color=BULK)
        fit = power_law(s, matrix.sides)
        exponents = {
            "alpha_hill": (alpha_hill(s, matrix.sides), values[len(values) // 2], LAW),
            "alpha_pl": (fit.alpha_pl, fit.x_min, SIGNAL),
        }
        for name, (alpha, start, colour) in exponents.items():
            x = np.geomspace(start, values[-1], 50)
            one.loglog(
                x, np.mean(values >= start) * (x / start) ** (1 - alpha), color=colour, label=f"{name} {alpha:.2f}"
            )
        others = {
            "alpha_hill_median": alpha_hill_median(s, matrix.sides),
            "alpha_hill_peak": alpha_hill_peak(s, matrix.sides),
        }
        text = "\n".join([
            *(f"{name} {value:.2f}" for name, value in others.items()),
            f"ks_distance {fit.ks_distance:.3f}",
        ])
        one.text(0.04, 0.06, text, transform=one.transAxes, fontsize=8)
        one.set_ylim(5e-4, 1.5)
        one.set_title(title, fontsize=9, loc="left")
        one.legend(fontsize=8, frameon=False)
        record[title] = {"alpha_pl": fit.alpha_pl, **{name: alpha for name, (alpha, *_) in exponents.items()}, **others}
    figure.supxlabel("eigenvalue", fontsize=9)
    figure.supylabel("share at or above", fontsize=9)
    save(figure, "tails")


def ranks() -> None:
    """Three spectra of one Frobenius norm."""
    i = np.arange(1, 201)
    cases = {"flat": np.ones(200), "1 / sqrt i": i**-0.5, "one large": np.where(i == 1, 10.0, 0.7)}
    figure, axes = panels(3, width=2.6, height=2.2)
    for one, (title, shape) in zip(axes, cases.items(), strict=True):
        s = shape / np.sqrt((shape**2).sum())
        one.bar(i, s, width=1, color=BULK)
        one.set_yscale("log")
        one.set_ylim(1e-2, 1.2)
        text = f"stable {stable_rank(s, (200, 200)):.0f}, effective {effective_rank(s, (200, 200)):.0f}"
        one.set_title(f"{title}\n{text}", fontsize=9, loc="left")
    figure.supxlabel("i", fontsize=9)
    figure.supylabel("s_i", fontsize=9)
    save(figure, "ranks")


def shuffled_weights(model: BlockMatrices, record: dict) -> SpectralReport:
    """Every metric of SmolLM2 beside what it is when the entries are shuffled."""
    spectra, _ = analyse(
        model.matrices, model.read, cache=None, how=Analysis(workers=2, null_draws=1), stored_bytes=model.stored_bytes
    )
    report = SpectralReport("smollm2-135m", "", {}, spectra)
    frame = report.frame()
    figure, axes = panels(3, width=3.4, height=3.1)
    for one, column in zip(axes, ("snr", "snr_mp", "alpha_hill"), strict=True):
        for kind, rows in frame.groupby("type", sort=False):
            x, y = rows[f"{column}_null"].astype(float), rows[column].astype(float)
            one.loglog(x.where(x > 0, 1e-3), y, "o", markersize=3, alpha=0.7, label=kind)
        ends = [max(1e-3, frame[f"{column}_null"].min()), frame[f"{column}_null"].max()]
        ends = [min(ends[0], frame[column].min()), max(ends[1], frame[column].max())]
        one.loglog(ends, ends, color=LAW, linestyle="--", linewidth=1)
        if column == "alpha_hill":
            for axis in (one.xaxis, one.yaxis):
                axis.set_major_locator(FixedLocator([1.5, 2, 3, 4]))
                axis.set_major_formatter("{x:g}")
                axis.set_minor_locator(NullLocator())
        one.set_title(column, fontsize=9, loc="left")
        known = frame[[column, f"{column}_null"]].astype(float).dropna()
        record[column] = {
            "matrices": len(known),
            "raised_by_shuffling": int((known[f"{column}_null"] > known[column]).sum()),
        }
    axes[0].legend(fontsize=6, frameon=False)
    figure.supxlabel("of the shuffled matrix (snr_mp of 0 is drawn at 0.001)", fontsize=9)
    figure.supylabel("of the matrix", fontsize=9)
    save(figure, "null")
    record["shuffled_with_a_spike"] = int((frame["num_spikes_calibrated_null"] > 0).sum())
    ks = frame["bulk_ks"].astype(float).dropna()
    record["bulk_ks"] = [float(ks.quantile(q)) for q in (0.05, 0.5, 0.95)]
    record["bulk_ks_null"] = [float(frame["bulk_ks_null"].astype(float).quantile(q)) for q in (0.05, 0.5, 0.95)]
    record["calibrated_undefined"] = int(frame["num_spikes_calibrated"].isna().sum())

    figure, axes = panels(1, width=4.2, height=3)
    axes[0].semilogy(frame["snr_moment"], frame["snr"], "o", markersize=3, color=BULK)
    axes[0].set_xlabel("snr_moment (mean / std of the entries)", fontsize=9)
    axes[0].set_ylabel("snr (Spectrum)", fontsize=9)
    rank = frame["snr_moment"].rank().corr(frame["snr"].rank())
    axes[0].set_title(f"Spearman {rank:.2f}", fontsize=9, loc="left")
    save(figure, "moment")
    record["spearman_of_snr_and_snr_moment"] = float(rank)
    record["largest_snr_moment"] = float(frame["snr_moment"].abs().max())
    return report


def packed(model: BlockMatrices, report: SpectralReport, record: dict) -> None:
    """How far NF4 moves the metrics, and which matrices are then selected."""
    from spectral_ft.allocation.selection import top
    from spectral_ft.models.packed import rounded

    spectra, _ = analyse(
        model.matrices, lambda matrix: rounded(model.read(matrix), "nf4-double"), cache=None, how=Analysis(workers=2)
    )
    after = SpectralReport("smollm2-135m in nf4-double", "", {}, spectra)
    moved = report_difference(report, after)
    record["metrics"] = {
        str(name): {"spearman": float(row["spearman"]), "median_change": float(row["median_change"])}
        for name, row in moved.dropna().iterrows()
    }
    for column in ("snr", "snr_mp", "alpha_hill", "num_spikes", "num_spikes_calibrated"):
        chosen = [top(r.matrices, column=column, fraction=0.25, scope="per_type") for r in (report, after)]
        record.setdefault("jaccard_of_the_top_quarter", {})[column] = jaccard(*chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    model = Checkpoint(parser.parse_args().model).block_matrices
    TARGET.mkdir(exist_ok=True)
    record: dict[str, dict] = {"threshold": {}, "spikes": {}, "tails": {}, "shuffled": {}, "nf4": {}}
    thresholds(record["threshold"])
    bulk()
    spikes(record["spikes"])
    tails(model, record["tails"])
    ranks()
    report = shuffled_weights(model, record["shuffled"])
    packed(model, report, record["nf4"])
    (HERE / "measured.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
