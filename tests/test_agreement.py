"""Our columns against what the peers' own programs gave; oracle: files made by `bench/fixtures.py`.

The first line of a file says by which versions. The peers compute in float32, which bounds how well
they can agree.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spectral_ft.bfloat16 import widened
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.spectral.analysis import Analysis, analyse
from spectral_ft.spectral.decomposition import Decomposition
from spectral_ft.spectral.metrics import COLUMNS, MetricOptions, metric_columns
from tests.conftest import EMBEDDED, REPOSITORY

FIXTURES = Path(__file__).parent / "fixtures"
RELATIVE, WEIGHTWATCHER = MetricOptions(), MetricOptions(eigenvalue_threshold=1e-5)


def smollm2() -> Path:
    folder = Path(os.environ.get("SPECTRAL_FT_MODELS", REPOSITORY.parent / "models")) / "smollm2-135m"
    if not (folder / "model.safetensors").is_file():
        pytest.skip(f"no {folder}: set SPECTRAL_FT_MODELS to the folder that holds smollm2-135m")
    return folder


MODELS = [
    pytest.param(lambda: EMBEDDED, "peers_tiny.csv", 28, id="tiny"),
    pytest.param(smollm2, "peers_smollm2-135m.csv", 210, id="smollm2-135m", marks=pytest.mark.real_model),
]


def ours(folder: Path, options: MetricOptions = RELATIVE) -> pd.DataFrame:
    matrices = Checkpoint(folder).block_matrices
    spectra, _ = analyse(matrices.matrices, matrices.read, cache=None, how=Analysis(workers=2, options=options))
    return pd.DataFrame({s.matrix.name: s.columns for s in spectra}).T.astype(float)


def published(file: str) -> pd.DataFrame:
    return pd.read_csv(FIXTURES / file, comment="#").set_index("name")


def largest_difference(one: pd.Series, other: pd.Series) -> float:
    difference = float((one / other - 1).abs().max())
    print(f"{one.name} against {other.name}: {difference:.1e} over {len(one)} matrices")
    return difference


@pytest.mark.parametrize(("folder", "file", "count"), MODELS)
def test_the_ratio_is_spectrums_and_the_spikes_are_lora_ars(folder, file, count) -> None:
    found, theirs = ours(folder()), published(file)
    assert len(theirs) == count and set(found.index) == set(theirs.index)
    theirs = theirs.loc[found.index]
    assert largest_difference(found["snr"], theirs["spectrum_snr"]) < 1e-5
    assert largest_difference(found["alpha_pl"], theirs["lora_ar_alpha"]) < 1e-4
    assert (found["num_spikes_tw"] == theirs["lora_ar_num_spikes"]).all()


@pytest.mark.parametrize(("folder", "file", "count"), MODELS)
def test_the_exponent_is_weightwatchers_at_its_absolute_cut(folder, file, count) -> None:
    found, theirs = ours(folder(), WEIGHTWATCHER), published(file)
    assert largest_difference(found["alpha_pl"], theirs["weightwatcher_alpha"].loc[found.index]) < 1e-6


@pytest.mark.parametrize(("folder", "file", "count"), MODELS)
def test_every_column_is_that_of_a_float64_singular_value_decomposition(folder, file, count) -> None:
    found = ours(folder())
    matrices = Checkpoint(folder()).block_matrices
    exact = {}
    for matrix in matrices.matrices:
        weights = widened(matrices.read(matrix)).astype(np.float64)
        s = np.linalg.svd(weights, compute_uv=False)
        known = Decomposition(s, float(weights.mean()), float(weights.std(ddof=1)), "float64")
        exact[matrix.name] = metric_columns(known, matrix.sides, MetricOptions())[0]
    expected = pd.DataFrame(exact).T.astype(float)
    assert len(found) == count
    for column in COLUMNS:
        assert (found[column].isna() == expected[column].isna()).all(), column
        apart = (found[column] - expected[column]).abs() / expected[column].abs().where(expected[column] != 0, 1)
        print(f"{column}: {apart.max():.1e}")
        assert not apart.max() > 1e-9, column
