"""SmolLM2-135M and GSM8K, where the folders exist; oracles: Spectrum's own formula, the contract."""

import os
from pathlib import Path

import numpy as np
import pytest

from spectral_ft import storage
from spectral_ft.types import RunResult
from tests.conftest import REPOSITORY, call_entry

pytestmark = pytest.mark.real_model


@pytest.fixture(scope="module")
def smollm2() -> Path:
    folder = Path(os.environ.get("SPECTRAL_FT_MODELS", REPOSITORY.parent / "models")) / "smollm2-135m"
    if not (folder / "model.safetensors").is_file():
        pytest.skip(f"no {folder}: set SPECTRAL_FT_MODELS to the folder that holds smollm2-135m")
    return folder


def spectrum_ratio(weight: np.ndarray) -> float:
    """Spectrum's formula on float64 singular values, restated from its text (arXiv:2406.06623, section 3)."""
    s = np.linalg.svd(weight.astype(np.float64), compute_uv=False)
    sigma = (np.quantile(s, 0.75) - np.quantile(s, 0.25)) / 1.349
    threshold = sigma * np.sqrt((1 + np.sqrt(min(weight.shape) / max(weight.shape))) ** 2)
    noise = s[s <= threshold].sum() if (s <= threshold).any() else 1.0
    return float(s[s > threshold].sum() / noise / s.max())


def test_the_signal_to_noise_ratio_is_spectrums_for_every_matrix(smollm2: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    from spectral_ft import analyze

    options = ("model=smollm2-135m", f"model.path={smollm2}", f"spectrum.cache={tmp_path}", f"hydra.run.dir={tmp_path}")
    assert call_entry(analyze.main, *options, "dataset=wordmath") == 0
    report = storage.read_report(tmp_path / "spectrum.parquet")
    weights = load_file(smollm2 / "model.safetensors")
    assert len(report.matrices) == 210
    worst = max(
        abs(spectrum.columns["snr"] / spectrum_ratio(weights[f"{spectrum.matrix.name}.weight"]) - 1)  # type: ignore[operator]
        for spectrum in report.matrices
    )
    print(f"largest relative difference over 210 matrices: {worst:.1e}")
    assert worst < 1e-9


@pytest.mark.timeout(1200)
def test_the_whole_job_on_real_input(smollm2: Path, tmp_path: Path, shared_data: Path) -> None:
    from spectral_ft import run

    folder = tmp_path / "run"
    code = call_entry(
        run.main,
        "model=smollm2-135m",
        f"model.path={smollm2}",
        "dataset=gsm8k",
        f"dataset.data_dir={shared_data / 'gsm8k'}",
        "benchmark=gsm8k",
        "method=spectraqlora",
        "training.max_steps=2",
        "training.batch_size=2",
        "training.micro_batch_size=2",
        "training.logging_steps=1",
        "dataset.limit=16",
        "benchmark.limit=2",
        "tracking.mode=disabled",
        f"hydra.run.dir={folder}",
    )
    assert code == 0
    result = storage.read_json(folder / "result.json", RunResult)
    assert result.plan is not None and 0 < result.plan["adapted_matrices"] < 210
    assert {(score.task, score.protocol, score.n) for score in result.scores} == {("gsm8k", "paper", 2)}
    assert result.config["quantization"]["_target_"].endswith("Nf4")
