"""Oracle: names chosen by eye."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from spectral_ft.errors import ConfigError
from spectral_ft.spectral.settings import SpectrumSettings
from tests.oracles import matrix

MATRICES = tuple(matrix(name) for name in ("0.q_proj", "0.up_proj", "1.q_proj", "11.q_proj"))


def settings(**options):
    return SpectrumSettings(**{"include": None, "exclude": None, "workers": 1, "cache": False} | options)


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


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"workers": "2"}, {"workers": True}, {"cache": True}, {"speed": 1}])
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        settings(**wrong)


def test_a_cache_has_a_folder_for_spectra_or_is_off(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert settings(cache="~/shared").cache_folder == tmp_path / "shared" / "spectra"
    assert settings(cache="/shared").cache_folder == Path("/shared/spectra")
    assert settings(cache=False).cache_folder is None


def test_workers_are_as_given_or_one_a_core(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 5})
    assert settings(workers=7).worker_count == 7
    assert settings(workers=None).worker_count == 3
