"""Oracle: laws that a policy obeys on any report, and one typed plan."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from spectral_ft.allocation.snr_top import SnrTop
from spectral_ft.errors import ConfigError, PlanError
from tests.oracles import law, report

values = st.dictionaries(
    st.builds("{}.{}".format, st.integers(0, 9), st.sampled_from(["q_proj", "up_proj"])), st.floats(0, 100), min_size=1
)


def snr_top(**options):
    defaults = {
        "column": "snr",
        "top_fraction": 0.25,
        "threshold": None,
        "scope": "per_type",
        "rank": 8,
        "lora_alpha": 32.0,
        "target_modules": None,
        "lowest_block": 0,
    }
    return SnrTop(**defaults | options)


def test_the_top_quarter_of_each_type_is_adapted():
    columns = {f"{block}.q_proj": float(block) for block in range(8)}
    columns |= {f"{block}.up_proj": float(-block) for block in range(8)}
    adapted = {a.name.removeprefix("model.layers.") for a in snr_top().allocate(report(columns)) if a.rank}
    assert adapted == {"6.q_proj", "7.q_proj", "0.up_proj", "1.up_proj"}


@law
@given(values, st.floats(0.01, 1), st.sampled_from(["per_type", "global"]), st.integers(1, 8))
def test_a_plan_covers_the_report_in_its_order_with_rank_zero_or_the_one_asked_for(columns, fraction, scope, rank):
    of = report(columns)
    allocations = snr_top(top_fraction=fraction, scope=scope, rank=rank).allocate(of)
    assert [a.name for a in allocations] == [spectrum.matrix.name for spectrum in of.matrices]
    assert {(a.rank, a.lora_alpha) for a in allocations} <= {(0, 0.0), (rank, 32.0)}
    assert any(a.rank for a in allocations)


@law
@given(values, st.floats(0.01, 1))
def test_the_same_report_gives_the_same_plan_in_any_order(columns, fraction):
    policy = snr_top(top_fraction=fraction)
    forwards, backwards = report(columns), report(dict(reversed(columns.items())))
    assert set(policy.allocate(forwards)) == set(policy.allocate(backwards))


@law
@given(values, st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_larger_fraction_only_adds_matrices(columns, one, other):
    less, more = (
        {a.name for a in snr_top(top_fraction=fraction).allocate(report(columns)) if a.rank}
        for fraction in sorted([one, other])
    )
    assert less <= more


@law
@given(values, st.floats(0, 99), st.floats(0, 99))
def test_a_higher_threshold_only_takes_matrices_away(columns, one, other):
    of = report(columns | {"9.top": 100.0})
    more, less = (
        {a.name for a in snr_top(top_fraction=None, threshold=threshold).allocate(of) if a.rank}
        for threshold in sorted([one, other])
    )
    assert {"model.layers.9.top"} <= less <= more


def test_only_its_column_is_read():
    assert snr_top().reads == {"snr"} and snr_top(column="snr_mp").reads == {"snr_mp"}


def test_a_rank_above_a_side_is_refused():
    with pytest.raises(PlanError, match=r"rank_policy\.rank=9 is above the smaller side of model\.layers\.0\.q_proj"):
        snr_top(rank=9).allocate(report({"0.q_proj": 1.0, "1.q_proj": 0.0, "2.q_proj": 0.0}))


def test_fractions_count_candidates_only():
    columns = {f"{block}.q_proj": float(block) for block in range(8)}
    adapted = [a.name for a in snr_top(top_fraction=0.5, lowest_block=4).allocate(report(columns)) if a.rank]
    assert adapted == ["model.layers.6.q_proj", "model.layers.7.q_proj"]


def test_a_column_that_is_missing_is_named():
    with pytest.raises(PlanError, match="column='alpha_pl' is not in the report"):
        snr_top(column="alpha_pl").allocate(report({"0.q_proj": 1.0}))


@pytest.mark.parametrize("wrong", [{"top_fraction": 0.0}, {"top_fraction": 1.01}, {"scope": "block"}, {"rank": True}])
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        snr_top(**wrong)


def test_a_threshold_selects_among_all_types():
    columns = {f"{block}.q_proj": float(block) for block in range(4)} | {"0.up_proj": 9.0}
    allocated = snr_top(top_fraction=None, threshold=1.5).allocate(report(columns))
    adapted = {a.name.removeprefix("model.layers.") for a in allocated if a.rank}
    assert adapted == {"2.q_proj", "3.q_proj", "0.up_proj"}


@pytest.mark.parametrize("options", [{"threshold": 1.0}, {"top_fraction": None}])
def test_a_fraction_and_a_threshold_exclude_each_other(options):
    with pytest.raises(ConfigError, match=r"top_fraction and rank_policy\.threshold: give one"):
        snr_top(**options)
