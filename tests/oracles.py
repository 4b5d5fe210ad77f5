"""Values built by hand that several tests share, and the settings of property tests."""

from collections.abc import Mapping

import numpy as np
from hypothesis import settings

from spectral_ft.types import BenchmarkScore, MatrixShape, MatrixSpectrum, SpectralReport, Stage

law = settings(deadline=None, max_examples=60, derandomize=True, database=None)
"""For property tests: the same examples every time, and no clock."""


def matrix(name: str, shape: tuple[int, int] = (8, 8)) -> MatrixShape:
    """`3.q_proj` becomes a q_proj of block 3."""
    block, _, kind = name.partition(".")
    return MatrixShape(name=f"model.layers.{name}", type=kind, side="reads", block=int(block), shape=shape)


def report(values: Mapping[str, float | None], *, shape: tuple[int, int] = (8, 8)) -> SpectralReport:
    """One matrix a name, such as `3.q_proj`, with this value in column `snr`."""
    return SpectralReport(
        model="by hand",
        fingerprint="f" * 32,
        settings={},
        matrices=tuple(
            MatrixSpectrum(
                matrix=matrix(name, shape),
                singular_values=None,
                columns={"snr": value},
                reasons={} if value is not None else {"snr": "made null here"},
            )
            for name, value in values.items()
        ),
    )


def gaussian(rows: int, cols: int, *, seed: int) -> np.ndarray:
    """Independent standard normal entries."""
    return np.random.default_rng(seed).normal(size=(rows, cols))


def rotation(size: int, *, seed: int) -> np.ndarray:
    """A random orthogonal matrix."""
    return np.linalg.qr(gaussian(size, size, seed=seed))[0]


def score(
    task: str, value: float, *, stage: Stage = "base", metric: str = "exact_match", n: int = 10
) -> BenchmarkScore:
    """A score of which only these things matter."""
    return BenchmarkScore(
        task=task,
        metric=metric,
        value=value,
        stderr=None,
        n=n,
        fewshot=0,
        extractor="strict",
        protocol="standard",
        stage=stage,
        harness_version="0",
    )
