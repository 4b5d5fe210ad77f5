"""What the peers compute, restated from their text and code so that it runs on a CPU and alone.

`fixtures.py` runs the originals; `tests/test_agreement.py` holds ours against what they gave.
"""

import math

import torch


def spectrum_snr(weight: torch.Tensor) -> float:
    """Spectrum's script: float32 singular values, then its ratio (QuixiAI/spectrum, `calculate_snr_for_layer`)."""
    s = torch.linalg.svdvals(weight)
    sigma = (torch.quantile(s, 0.75) - torch.quantile(s, 0.25)) / 1.349
    rows, cols = weight.shape
    beta = min(rows, cols) / max(rows, cols)
    above = s > sigma * math.sqrt((1 + math.sqrt(beta)) ** 2)
    signal = s[above].sum() if above.any() else torch.tensor(0.0)
    noise = s[~above].sum() if (~above).any() else torch.tensor(1.0)
    return float(signal / noise / s[0])


def lora_ar(weight: torch.Tensor) -> tuple[float, int]:
    """LoRA-AR's function as its training script calls it: a power law at the best of all thresholds, and spikes.

    UdiBhaskar/Adaptive-Rank-LoRA, `spectral_analysis_for_adaptive_lora` without a `power_law_fitting_method`.
    """
    tiny = 1e-8
    m, n = min(weight.shape), max(weight.shape)
    eigenvalues, _ = torch.sort(torch.square(torch.linalg.svdvals(weight.to(torch.float32)).flatten()))
    root_q = torch.sqrt(torch.tensor(n / m))
    edge = (torch.sqrt(torch.mean(eigenvalues)).item() * (1 + 1 / root_q)) ** 2
    edge += torch.sqrt(1 / root_q * torch.pow(edge, 2 / 3) * torch.pow(torch.tensor(m), -2 / 3))
    logs = torch.log(eigenvalues + tiny)
    alphas, distances = torch.zeros(m - 1), torch.ones(m - 1)
    for i, threshold in enumerate(eigenvalues[:-1]):
        k = float(m - i)
        alpha = 1 + k / (torch.sum(logs[i:]) - k * logs[i] + tiny)
        alphas[i] = alpha
        if alpha > 1:
            fitted = 1 - (eigenvalues[i:] / (threshold + tiny)) ** (-alpha + 1)
            distances[i] = torch.max(torch.abs(fitted - torch.arange(k) / (k + tiny)))
    return float(alphas[torch.argmin(distances)]), int(torch.sum(eigenvalues > edge))


def weightwatcher_columns(weights: dict[str, torch.Tensor], *, spikes: bool = False) -> dict[str, dict[str, float]]:
    """WeightWatcher's own `analyze()` on a model that has these linear layers and nothing else.

    Args:
        weights: Name to matrix.
        spikes: Also fit a bulk and count what is above it (`mp_fit`), which takes long.

    Returns:
        Name to columns, among them `alpha` and, if asked for, `num_spikes`.
    """
    import logging

    import weightwatcher

    for name in ("weightwatcher", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    layers = torch.nn.ModuleDict()
    for name, weight in weights.items():
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
        layer.weight = torch.nn.Parameter(weight, requires_grad=False)
        layers[name.replace(".", "/")] = layer
    found = weightwatcher.WeightWatcher(model=layers).analyze(mp_fit=spikes, plot=False)
    return {str(row["longname"]).replace("/", "."): dict(row) for _, row in found.iterrows()}
