"""Oracle: the policy reads its column and adds nothing."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from spectral_ft.allocation.explained_variance import COLUMN, ExplainedVariance
from spectral_ft.errors import PlanError
from spectral_ft.types import PROBE_COLUMNS, SpectralReport
from tests.oracles import law, report

OPTIONS = {
    "rank": 8,
    "rho": 2.0,
    "tau": 0.99,
    "whiten": False,
    "alpha_factor": 2.0,
    "target_modules": None,
    "lowest_block": 0,
}


def policy(**changes):
    return ExplainedVariance(**OPTIONS | changes)


def probed(values, shape=(32, 48)):
    """A report with the probe's ranks, by short name."""
    spectra = report(values, shape=shape).matrices
    named = tuple(replace(s, columns={COLUMN: s.columns["snr"]}, reasons={}) for s in spectra)
    return SpectralReport("by hand", "", {}, named)


def given_to(values, **changes):
    return [(a.rank, a.lora_alpha) for a in policy(**changes).allocate(probed(values))]


def test_the_column_is_one_of_the_probe_and_the_only_one_read():
    assert policy().reads == {"input_rank"} <= set(PROBE_COLUMNS)


def test_the_ranks_are_those_of_the_probe():
    values = {"0.q": 16.0, "0.v": 1.0, "1.q": 0.0, "1.v": None, "2.q": 7.0}
    assert given_to(values) == [(16, 32.0), (1, 2.0), (0, 0.0), (0, 0.0), (7, 14.0)]


@law
@given(st.lists(st.none() | st.integers(0, 32).map(float), min_size=1, max_size=8).filter(any), st.floats(0.1, 8))
def test_every_rank_is_the_columns_and_every_alpha_its_multiple(values, factor):
    found = given_to({f"{block}.q": value for block, value in enumerate(values)}, alpha_factor=factor)
    assert found == [(int(value or 0), factor * (value or 0)) for value in values]


def test_what_is_no_candidate_is_frozen():
    values = {"0.q": 4.0, "1.q": 4.0, "1.v": 4.0}
    assert given_to(values, lowest_block=1, target_modules="q") == [(0, 0.0), (4, 8.0), (0, 0.0)]


def test_the_probe_looks_at_the_candidates_only():
    of = probed({"0.q": 4.0, "1.q": None, "1.v": 4.0})
    assert policy(target_modules=["q"]).names(of) == ["model.layers.0.q", "model.layers.1.q"]
    assert policy(lowest_block=1).names(of) == ["model.layers.1.q", "model.layers.1.v"]
    bare = replace(of, matrices=tuple(replace(spectrum, columns={}) for spectrum in of.matrices))
    assert len(policy().names(bare)) == 3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"0.q": 0.0, "1.q": 0.0}, "selects none of the 2 matrices of by hand"),
        ({"0.q": None}, "column='input_rank' is null for all 1 candidates"),
        ({"0.q": 33.0}, r"rank=33 is above the smaller side of model\.layers\.0\.q, .*take at most 32"),
    ],
)
def test_ranks_that_cannot_be_given_are_refused(values, words):
    with pytest.raises(PlanError, match=words):
        given_to(values)


def test_a_report_without_a_probe_is_refused():
    with pytest.raises(PlanError, match="column='input_rank' is not in the report; its columns are snr"):
        policy().allocate(report({"0.q": 1.0}))


@pytest.mark.parametrize(
    "wrong",
    [{"rank": 0}, {"rho": 0.9}, {"tau": 0.0}, {"tau": 1.1}, {"whiten": 1}, {"alpha_factor": 0}, {"column": "x"}],
)
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        policy(**wrong)
