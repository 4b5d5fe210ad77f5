"""Oracle: LoRA-AR's equations worked out by hand on typed columns; laws of bounds and order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from spectral_ft.allocation.ht_sr import HtSr
from spectral_ft.errors import ConfigError, PlanError
from spectral_ft.types import MatrixSpectrum, SpectralReport
from tests.oracles import law, matrix

OPTIONS = {
    "column": "alpha_hill",
    "spikes_column": "num_spikes",
    "scope": "per_type",
    "select": "all",
    "top_fraction": 0.5,
    "w_hill": 0.7,
    "w_mp_spikes": 0.3,
    "min_rank": 4,
    "max_rank": 64,
    "rank_scaling": "linear",
    "alpha_factor": 2.0,
    "target_modules": None,
    "lowest_block": 0,
}


def of(rows, shape=(128, 256)):
    """A report of (alpha, spikes) by name."""
    spectra = [
        MatrixSpectrum(matrix(name, shape), None, {"alpha_hill": alpha, "num_spikes": spikes})
        for name, (alpha, spikes) in rows.items()
    ]
    return SpectralReport("hand", "", {}, tuple(spectra))


def ranks(rows, shape=(128, 256), **changes):
    allocations = HtSr(**OPTIONS | changes).allocate(of(rows, shape))
    return {a.name.removeprefix("model.layers."): a.rank for a in allocations}


FOUR = {"0.q": (2.0, 10.0), "1.q": (4.0, 0.0), "2.q": (3.0, 5.0), "3.q": (2.5, 0.0)}
# a = 0, 1, 0.5, 0.25; b = 0, 1, 0.5, 1; score = 0, 1, 0.5, 0.475


def test_all_scores_set_the_ranks_by_equation_8():
    assert ranks(FOUR) == {"0.q": 4, "1.q": 64, "2.q": 34, "3.q": round(4 + 60 * 0.475)}


def test_the_highest_half_is_kept_and_scaled_anew():
    assert ranks(FOUR, select="highest") == {"0.q": 0, "1.q": 64, "2.q": 4, "3.q": 0}


def test_the_lowest_half_is_what_the_released_code_keeps():
    assert ranks(FOUR, select="lowest") == {"0.q": 4, "1.q": 0, "2.q": 0, "3.q": 64}


@pytest.mark.parametrize(("scaling", "share"), [("log", np.log1p(0.5) / np.log(2)), ("sqrt", np.sqrt(0.5))])
def test_the_score_may_be_scaled_by_its_logarithm_or_root(scaling, share):
    assert ranks(FOUR, rank_scaling=scaling)["2.q"] == round(4 + 60 * float(share))


def test_a_rank_never_exceeds_the_smaller_side():
    assert ranks(FOUR, shape=(20, 256))["1.q"] == 20


def test_lora_alpha_is_a_factor_of_the_rank():
    for allocation in HtSr(**OPTIONS | {"alpha_factor": 3.0}).allocate(of(FOUR)):
        assert allocation.lora_alpha == 3 * allocation.rank


def test_each_type_is_scaled_on_its_own():
    rows = FOUR | {f"{block}.v": (alpha + 100, spikes) for block, (alpha, spikes) in enumerate(FOUR.values())}
    found = ranks(rows)
    assert [found[f"{b}.q"] for b in range(4)] == [found[f"{b}.v"] for b in range(4)]


def test_a_matrix_without_a_value_is_frozen():
    assert ranks(FOUR | {"4.q": (None, 3.0), "5.q": (9.0, None)}) == ranks(FOUR) | {"4.q": 0, "5.q": 0}


@pytest.mark.parametrize("select", ["highest", "lowest"])
def test_of_equal_scores_the_first_by_name_are_kept(select):
    equal = {f"{block}.q": (3.0, 2.0) for block in (2, 0, 3, 1)}
    assert {name for name, rank in ranks(equal, select=select).items() if rank} == {"0.q", "1.q"}


def test_a_constant_report_gives_one_rank():
    assert set(ranks({f"{b}.q": (3.0, 2.0) for b in range(6)}).values()) == {4}


def test_a_smallest_rank_above_the_largest_is_refused():
    with pytest.raises(ConfigError, match="min_rank=9 is above max_rank=8"):
        HtSr(**OPTIONS | {"min_rank": 9, "max_rank": 8})


columns = st.lists(st.tuples(st.floats(1, 10), st.integers(0, 50)), min_size=1, max_size=12)


@law
@given(columns, st.sampled_from(["all", "highest", "lowest"]), st.sampled_from(["linear", "log", "sqrt"]))
def test_ranks_stay_within_their_bounds_whatever_the_order_of_matrices(rows, select, scaling):
    named = {f"{block}.q": row for block, row in enumerate(rows)}
    found = ranks(named, select=select, rank_scaling=scaling)
    assert {rank for rank in found.values() if rank} <= set(range(4, 65)) and any(found.values())
    assert ranks(dict(reversed(named.items())), select=select, rank_scaling=scaling) == found


@law
@given(columns)
def test_a_higher_exponent_at_equal_spikes_never_gets_less(rows):
    named = {f"{block}.q": (alpha, 3.0) for block, (alpha, _) in enumerate(rows)}
    found = ranks(named)
    order = sorted(named, key=lambda name: named[name][0])
    assert [found[name] for name in order] == sorted(found.values())


@law
@given(columns)
def test_more_spikes_at_an_equal_exponent_never_get_more(rows):
    named = {f"{block}.q": (3.0, spikes) for block, (_, spikes) in enumerate(rows)}
    found = ranks(named)
    order = sorted(named, key=lambda name: -named[name][1])
    assert [found[name] for name in order] == sorted(found.values())


@law
@given(columns, st.sampled_from(["highest", "lowest"]), st.integers(1, 16))
def test_what_is_kept_is_the_fraction_rounded_down_but_at_least_one(rows, select, sixteenths):
    found = ranks({f"{b}.q": row for b, row in enumerate(rows)}, select=select, top_fraction=sixteenths / 16)
    assert sum(rank > 0 for rank in found.values()) == max(1, sixteenths * len(rows) // 16)


@law
@given(columns, st.sampled_from([0.5, 1.0, 2.0]), st.integers(-3, 3))
def test_the_unit_and_zero_of_a_column_are_irrelevant(rows, unit, zero):
    wide = [(alpha, spikes) for alpha, spikes in [(1.0, 0), (10.0, 50), *rows]]
    here, there = (
        ranks({f"{b}.q": (unit * a + zero, s) for b, (a, s) in enumerate(wide)})
        for unit, zero in ((1.0, 0), (unit, zero))
    )
    # The source's 1e-8 beside the range moves a rank that lies between two.
    assert all(abs(here[name] - there[name]) <= 1 for name in here)


def test_both_columns_are_read_and_named_where_they_are_missing():
    assert HtSr(**OPTIONS).reads == {"alpha_hill", "num_spikes"}
    for column in ("column", "spikes_column"):
        with pytest.raises(PlanError, match="column='alpha_pl' is not in the report; its columns are alpha_hill, num_"):
            ranks(FOUR, **{column: "alpha_pl"})


def test_a_report_in_which_no_matrix_has_both_columns_is_refused():
    with pytest.raises(PlanError, match="selects none of the 2 matrices of hand"):
        ranks({"0.q": (2.0, None), "1.q": (None, 3.0)})


@pytest.mark.parametrize(
    "wrong",
    [
        {"select": "top"},
        {"top_fraction": 0.0},
        {"w_hill": -0.1},
        {"min_rank": 0},
        {"rank_scaling": "cube"},
        {"rank": 8},
    ],
)
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        HtSr(**OPTIONS | wrong)
