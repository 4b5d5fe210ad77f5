"""Oracle: names chosen by eye, and numbers multiplied by hand."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from spectral_ft.errors import ConfigError
from spectral_ft.spectral.decomposition import decompose, with_lapack
from spectral_ft.spectral.metrics import MetricOptions, spectrum_columns
from spectral_ft.spectral.settings import SpectrumSettings
from tests.oracles import gaussian, matrix

MATRICES = tuple(matrix(name) for name in ("0.q_proj", "0.up_proj", "1.q_proj", "11.q_proj"))
DEFAULTS = {
    "include": None,
    "exclude": None,
    "dequantize": False,
    "precision": "float64",
    "device": "cpu",
    "workers": 1,
    "memory_gib": None,
    "null_draws": 0,
    "edge_level": 0.95,
    "histogram_bins": 100,
    "eigenvalue_threshold": None,
    "columns": {},
    "cache": False,
}


def settings(**options):
    return SpectrumSettings(**DEFAULTS | options)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, (0, 1, 2, 3)),
        ({"include": "q_proj"}, (0, 2, 3)),
        ({"exclude": "q_proj"}, (1,)),
        ({"include": r"layers\.1\.", "exclude": "up"}, (2,)),
        ({"include": "q_proj$", "exclude": r"layers\.\d\."}, (3,)),
    ],
)
def test_patterns_search_in_names(options, kept):
    assert settings(**options).choose(MATRICES) == tuple(MATRICES[at] for at in kept)


def test_patterns_that_leave_nothing_say_what_a_name_looks_like():
    with pytest.raises(ConfigError, match=r"leave none of the 4 matrices; a name is model\.layers\.0\.q_proj"):
        settings(include="c_attn").choose(MATRICES)


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_that_is_none_is_refused(option):
    with pytest.raises(ConfigError, match=rf"spectrum\.{option}='\(' .*is no regular expression"):
        settings(**{option: "("}).choose(MATRICES)


WRONG = [
    {"workers": 0},
    {"workers": "2"},
    {"workers": True},
    {"cache": True},
    {"speed": 1},
    {"precision": "float16"},
    {"memory_gib": 0.0},
    {"memory_gib": -1.0},
    {"null_draws": -1},
    {"null_draws": 1.5},
    {"histogram_bins": 9},
    {"eigenvalue_threshold": 0.0},
    {"dequantize": "yes"},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        settings(**wrong)


@pytest.mark.parametrize("level", [0.9, 0.5, 1.0, 95.0, float("nan")])
def test_a_level_without_a_known_quantile_is_refused(level):
    with pytest.raises(ConfigError, match=r"spectrum\.edge_level=.* is not known: take 0\.95 or 0\.99"):
        settings(edge_level=level)


def test_a_cache_has_a_folder_for_spectra_or_is_off(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert settings(cache="~/shared").cache_folder == tmp_path / "shared" / "spectra"
    assert settings(cache="/shared").cache_folder == Path("/shared/spectra")
    assert settings(cache=False).cache_folder is None


def test_workers_are_as_given_or_one_a_core(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 5})
    assert settings(workers=7).analysis.workers == 7
    assert settings(workers=None).analysis.workers == 3


def test_a_device_works_on_one_matrix_at_a_time(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 5})
    monkeypatch.setattr(SpectrumSettings, "_on_device", lambda _: with_lapack)
    assert settings(workers=None, device="cuda").analysis.workers == 1


@pytest.mark.parametrize(("gib", "expected"), [(1.0, 1024**3), (0.5, 512 * 1024**2), (3.0, 3 * 1024**3)])
def test_memory_is_given_in_gib(gib, expected):
    assert settings(memory_gib=gib).analysis.memory == expected


def test_without_a_bound_half_of_the_free_memory_is_taken(monkeypatch):
    monkeypatch.setattr(os, "sysconf", {"SC_AVPHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert settings().analysis.memory == 2_048_000


def test_what_is_asked_for_is_what_is_done():
    how = settings(
        precision="float32", null_draws=3, edge_level=0.99, histogram_bins=50, eigenvalue_threshold=1e-5
    ).analysis
    assert (how.precision, how.null_draws) == ("float32", 3)
    assert how.options == MetricOptions(edge_level=0.99, histogram_bins=50, eigenvalue_threshold=1e-5)
    assert how.solver is with_lapack


@pytest.mark.parametrize("device", ["cuda:63", "gpu", "", "cuda:x"])
def test_a_device_that_does_not_exist_is_named(device):
    with pytest.raises(ConfigError, match=rf"^spectrum\.device='{device}' cannot be used: .*Take cpu, or cuda"):
        _ = settings(device=device).analysis


def test_a_device_that_torch_has_is_taken():
    # the CPU under another name than the one that takes LAPACK
    how = settings(device="cpu:0").analysis
    assert how.solver is not with_lapack
    weights = gaussian(5, 7, seed=0)
    found = decompose(weights, solver=how.solver).singular_values
    assert found == pytest.approx(torch.linalg.svdvals(torch.from_numpy(weights)).numpy(), rel=1e-10)


def test_a_report_says_what_changes_its_numbers_and_nothing_of_the_machine():
    named = {"include": "q", "exclude": "v", "dequantize": True, "precision": "float32", "null_draws": 4}
    named |= {"edge_level": 0.99, "histogram_bins": 20, "eigenvalue_threshold": 1e-3}
    assert settings(**named, workers=3, memory_gib=1.0, cache="/here").provenance == named


def test_a_column_of_ones_own_is_computed_and_named_in_the_report() -> None:
    own = settings(columns={"third_norm": partial(third_norm)})
    assert own.provenance["columns"] == {"third_norm": f"{third_norm.__module__}.third_norm"}
    columns, _ = spectrum_columns(np.array([2.0, 1.0]), (2, 3), own.analysis.options)
    assert columns["third_norm"] == 9.0


def third_norm(singular_values: np.ndarray, shape: tuple[int, int]) -> float:
    del shape
    return float((singular_values**3).sum())


def test_a_column_of_ones_own_cannot_replace_ours() -> None:
    with pytest.raises(ConfigError, match=r"spectrum.columns has snr, which is a column already"):
        settings(columns={"snr": third_norm})
