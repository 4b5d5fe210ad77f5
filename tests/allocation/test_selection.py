"""Oracle: small reports with typed columns, integer arithmetic where a law is claimed, and what holds of any policy."""

import random
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from spectral_ft.allocation.depth import Depth
from spectral_ft.allocation.explained_variance import ExplainedVariance
from spectral_ft.allocation.fitting import fitted, units
from spectral_ft.allocation.gradient import Gradient
from spectral_ft.allocation.ht_sr import HtSr
from spectral_ft.allocation.inverse import Inverse
from spectral_ft.allocation.random import Random
from spectral_ft.allocation.selection import above, allocate, allocate_each, candidates, count_of, top
from spectral_ft.allocation.snr_tiers import SnrTiers, Tier
from spectral_ft.allocation.snr_top import SnrTop
from spectral_ft.allocation.uniform import Uniform
from spectral_ft.errors import PlanError
from spectral_ft.types import Cost, MatrixAllocation, MatrixSpectrum, SpectralReport
from tests.oracles import law, matrix, report

SMALL = report({"0.q_proj": 4.0, "0.up_proj": 1.0, "1.q_proj": 3.0, "1.up_proj": 2.0})
values = st.dictionaries(
    st.builds("{}.{}".format, st.integers(0, 9), st.sampled_from(["q_proj", "k_proj", "up_proj"])),
    st.one_of(st.none(), st.floats(0, 100)),
    min_size=1,
).filter(lambda columns: any(value is not None for value in columns.values()))


def short(names):
    return sorted(name.removeprefix("model.layers.") for name in names)


def chosen(target_modules=None, lowest_block=0, of=SMALL):
    found = candidates(of, target_modules=target_modules, lowest_block=lowest_block)
    return [spectrum.matrix.name.removeprefix("model.layers.") for spectrum in found]


@pytest.mark.parametrize(
    ("target_modules", "kept"),
    [
        (None, ["0.q_proj", "0.up_proj", "1.q_proj", "1.up_proj"]),
        (["up_proj"], ["0.up_proj", "1.up_proj"]),
        (["up_proj", "q_proj"], ["0.q_proj", "0.up_proj", "1.q_proj", "1.up_proj"]),
        ("q_proj", ["0.q_proj", "1.q_proj"]),
        (r"1\.q_proj", ["1.q_proj"]),
        (r"model\.layers\.0\..*", ["0.q_proj", "0.up_proj"]),
        ("q_proj|up_proj", ["0.q_proj", "0.up_proj", "1.q_proj", "1.up_proj"]),
    ],
)
def test_target_modules_are_types_or_a_regex_on_the_end_of_names(target_modules, kept):
    assert chosen(target_modules) == kept


def test_a_regex_must_match_from_a_dot_on():
    with pytest.raises(PlanError, match="matches none"):
        chosen("proj")


def test_blocks_below_the_lowest_are_left_out():
    assert chosen(lowest_block=1) == ["1.q_proj", "1.up_proj"]


@pytest.mark.parametrize(("target_modules", "lowest_block"), [(["c_attn"], 0), ("c_attn", 0), ([], 0), (None, 2)])
def test_no_match_lists_what_there_is(target_modules, lowest_block):
    known = r"matches none of the 4 matrices of by hand: its module types are q_proj, up_proj, its blocks 0 to 1"
    with pytest.raises(PlanError, match=known):
        chosen(target_modules, lowest_block)


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(PlanError, match=r"target_modules='\(q' is no regular expression"):
        chosen("(q")


@pytest.mark.parametrize(
    ("fraction", "scope", "names"),
    [
        (0.5, "per_type", ["0.q_proj", "1.up_proj"]),
        (0.5, "global", ["0.q_proj", "1.q_proj"]),
        (0.01, "per_type", ["0.q_proj", "1.up_proj"]),
        (0.01, "global", ["0.q_proj"]),
        (0.99, "global", ["0.q_proj", "1.q_proj", "1.up_proj"]),
        (1.0, "per_type", ["0.q_proj", "0.up_proj", "1.q_proj", "1.up_proj"]),
    ],
)
def test_the_highest_of_each_scope_are_taken(fraction, scope, names):
    assert short(top(SMALL.matrices, column="snr", fraction=fraction, scope=scope)) == names


def test_ties_go_by_name():
    tied = report({"2.q_proj": 1.0, "0.q_proj": 1.0, "1.q_proj": 1.0})
    assert short(top(tied.matrices, column="snr", fraction=0.7, scope="global")) == ["0.q_proj", "1.q_proj"]


def test_a_null_is_never_chosen_and_not_counted():
    holed = report({"0.q_proj": None, "1.q_proj": 1.0, "2.q_proj": 2.0, "3.q_proj": None})
    assert short(top(holed.matrices, column="snr", fraction=0.5, scope="per_type")) == ["2.q_proj"]


def test_an_unknown_column_lists_the_known_ones():
    with pytest.raises(PlanError, match=r"rank_policy\.column='alpha' is not in the report; its columns are snr"):
        top(SMALL.matrices, column="alpha", fraction=0.5, scope="global")


def test_a_column_that_is_null_everywhere_says_why():
    empty = report({"0.q_proj": None, "1.q_proj": None})
    with pytest.raises(PlanError, match=r"is null for all 2 candidates \(.*0\.q_proj: made null here\)"):
        top(empty.matrices, column="snr", fraction=0.5, scope="global")


@law
@given(values, st.integers(1, 64), st.sampled_from(["per_type", "global"]))
def test_a_scope_of_n_gives_the_fraction_rounded_down_but_at_least_one(columns, sixty_fourths, scope):
    picked = short(top(report(columns).matrices, column="snr", fraction=sixty_fourths / 64, scope=scope))
    scopes = {}
    for name, value in columns.items():
        if value is not None:
            scopes.setdefault(name.partition(".")[2] if scope == "per_type" else "all", []).append(name)
    for members in scopes.values():
        inside = [name for name in members if name in picked]
        assert len(inside) == max(1, sixty_fourths * len(members) // 64)
        outside = [columns[name] for name in members if name not in picked]
        assert min(columns[name] for name in inside) >= max(outside, default=0)


def test_seven_tenths_of_ninety_are_sixty_three():
    ninety = report({f"{block}.q_proj": float(block) for block in range(90)})
    assert len(top(ninety.matrices, column="snr", fraction=0.7, scope="global")) == 63


@law
@given(values, st.floats(0.01, 1), st.randoms(use_true_random=False))
def test_the_order_of_the_matrices_is_irrelevant(columns, fraction, rng: random.Random):
    shuffled = list(columns.items())
    rng.shuffle(shuffled)
    one = top(report(columns).matrices, column="snr", fraction=fraction, scope="per_type")
    assert top(report(dict(shuffled)).matrices, column="snr", fraction=fraction, scope="per_type") == one


def test_the_chosen_get_the_rank_and_the_others_are_frozen():
    allocations = allocate(SMALL, {"model.layers.1.q_proj"}, rank=4, lora_alpha=8.0)
    assert [(allocation.rank, allocation.lora_alpha) for allocation in allocations] == [(0, 0), (0, 0), (4, 8), (0, 0)]
    assert [allocation.name for allocation in allocations] == [spectrum.matrix.name for spectrum in SMALL.matrices]


def test_a_rank_may_reach_the_smaller_side_and_not_more():
    narrow = report({"0.k_proj": 1.0}, shape=(4, 16))
    assert allocate(narrow, {"model.layers.0.k_proj"}, rank=4, lora_alpha=1.0)[0].rank == 4
    with pytest.raises(PlanError, match=r"rank=5 is above the smaller side of model\.layers\.0\.k_proj.*at most 4"):
        allocate(narrow, {"model.layers.0.k_proj"}, rank=5, lora_alpha=1.0)


def test_a_frozen_matrix_may_be_smaller_than_the_rank():
    spectra = (*report({"0.k_proj": 1.0}, shape=(4, 16)).matrices, *report({"0.q_proj": 1.0}, shape=(16, 16)).matrices)
    both = SpectralReport("by hand", "", {}, spectra)
    assert [a.rank for a in allocate(both, {"model.layers.0.q_proj"}, rank=5, lora_alpha=1.0)] == [0, 5]


def test_a_policy_that_gives_nothing_is_refused():
    with pytest.raises(PlanError, match="selects none of the 1 matrices of by hand"):
        allocate_each(report({"0.k_proj": 1.0}), {})


def test_what_is_above_a_value_is_strictly_above():
    spectra = report({"0.q": 1.0, "1.q": 2.0, "2.q": 3.0, "3.q": None}).matrices
    assert above(spectra, column="snr", threshold=2.0) == {"model.layers.2.q"}
    with pytest.raises(PlanError, match=r"threshold=3 on snr selects none of the 3 .* highest value is 3 .*median 2"):
        above(spectra, column="snr", threshold=3.0)


@law
@given(st.integers(1, 64), st.integers(1, 300))
def test_a_fraction_is_rounded_down_as_its_exact_value_is(hundredths, count):
    assert count_of(hundredths / 100, count) == max(1, hundredths * count // 100)


ALL = {"target_modules": None, "lowest_block": 0}
TOP = SnrTop(column="snr", top_fraction=0.4, threshold=None, scope="per_type", rank=8, lora_alpha=32.0, **ALL)
TIERS = SnrTiers(
    column="snr",
    scope="per_type",
    fractions=[0.25, 0.25],
    thresholds=None,
    high=Tier(rank=16, lora_alpha=32.0, lr_multiplier=1.0),
    mid=Tier(rank=4, lora_alpha=16.0, lr_multiplier=0.5),
    **ALL,
)
HT_SR = HtSr(
    column="alpha_hill",
    spikes_column="num_spikes",
    scope="per_type",
    select="highest",
    top_fraction=0.5,
    w_hill=0.7,
    w_mp_spikes=0.3,
    min_rank=4,
    max_rank=64,
    rank_scaling="linear",
    alpha_factor=2.0,
    **ALL,
)
GRADIENT = Gradient(column="gradient", scope="per_type", rank=8, min_rank=1, max_rank=64, alpha_factor=2.0, **ALL)
POLICIES = {
    "uniform": Uniform(rank=8, lora_alpha=16.0, **ALL),
    "uniform above a block": Uniform(rank=8, lora_alpha=16.0, target_modules=None, lowest_block=1),
    "depth": Depth(first_rank=4, last_rank=16, alpha_factor=2.0, **ALL),
    "snr_top": TOP,
    "snr_top global": replace(TOP, scope="global"),
    "snr_top threshold": replace(TOP, top_fraction=None, threshold=-1.0),
    "snr_tiers": TIERS,
    "snr_tiers global": replace(TIERS, scope="global"),
    "snr_tiers thresholds": replace(TIERS, fractions=None, thresholds=[40.0, -1.0]),
    "ht_sr": HT_SR,
    "ht_sr all": replace(HT_SR, select="all", scope="global"),
    "ht_sr lowest": replace(HT_SR, select="lowest", rank_scaling="sqrt"),
    "gradient": GRADIENT,
    "gradient global": replace(GRADIENT, scope="global"),
    "explained_variance": ExplainedVariance(rank=8, rho=2.0, tau=0.99, whiten=False, alpha_factor=2.0, **ALL),
}
"""Every policy but the controls and `none`; on `models` each of them selects something."""
CONTROLS = {
    "random of uniform": Random(of=POLICIES["uniform"], seed=0),
    "random of snr_tiers": Random(of=TIERS, seed=3),
    "inverse of gradient": Inverse(of=GRADIENT),
    "inverse of depth": Inverse(of=POLICIES["depth"]),
}
COLUMNS = ("snr", "alpha_hill", "num_spikes", "gradient", "input_rank")
SHAPES = {"q": (64, 96), "v": (96, 64), "u": (100, 70)}
"""No policy above gives a rank beyond 64, the smallest side."""


def drawn(seed):
    """A report with every column, nulls and ties; without nulls in its lowest block, so that every policy selects."""
    draw = random.Random(seed)
    lowest = draw.randint(1, 3)
    coarse = draw.choice([True, False])  # ties, or none
    highest = {"snr": 100, "alpha_hill": 30, "num_spikes": 40, "gradient": 1e-3, "input_rank": 63}
    whole = {"num_spikes", "input_rank"}
    spectra = []
    for kind in draw.choice(["q", "qv", "quv"]):
        for block in range(lowest, lowest + draw.randint(1, 6)):
            share = {column: draw.randint(0, 4) / 4 if coarse else draw.random() for column in highest}
            values = {column: share[column] * top for column, top in highest.items()}
            values |= {column: float(round(values[column])) for column in whole}
            values["gradient"] += 1e-9
            values["input_rank"] += block == lowest
            nulls = [column for column in highest if block > lowest and draw.random() < 0.2]
            spectra.append(MatrixSpectrum(matrix(f"{block}.{kind}", SHAPES[kind]), None, values | dict.fromkeys(nulls)))
    return SpectralReport("drawn", "", {}, tuple(spectra))


models = st.integers(0, 10**9).map(drawn)
"""By a seed, which is faster than number by number."""


def every(policies):
    return pytest.mark.parametrize("policy", policies.values(), ids=policies.keys())


def by_name(allocations):
    return {allocation.name: allocation for allocation in allocations}


few = settings(law, max_examples=20)
"""For laws of every policy: as many examples each."""


@every(POLICIES | CONTROLS)
@few
@given(of=models, rng=st.randoms(use_true_random=False))
def test_a_plan_covers_the_report_within_bounds_whatever_its_order_and_survives_json(policy, of, rng):
    allocations = policy.allocate(of)
    assert [a.name for a in allocations] == [spectrum.matrix.name for spectrum in of.matrices]
    for a, spectrum in zip(allocations, of.matrices, strict=True):
        assert 0 <= a.rank <= spectrum.matrix.smaller_side
        assert (a.lora_alpha > 0) == (a.rank > 0) and a.group is None and a.shares is None
    assert any(a.rank for a in allocations)
    shuffled = list(of.matrices)
    rng.shuffle(shuffled)
    assert by_name(policy.allocate(replace(of, matrices=tuple(shuffled)))) == by_name(allocations)
    assert policy.allocate(of) == allocations
    form = TypeAdapter(tuple[MatrixAllocation, ...])
    assert form.validate_json(form.dump_json(allocations)) == allocations


@every(POLICIES | CONTROLS)
@few
@given(of=models)
def test_a_policy_reads_the_columns_that_it_names_and_no_others(policy, of):
    assert policy.reads <= set(COLUMNS)
    spectra = tuple(replace(s, columns={c: s.columns[c] for c in sorted(policy.reads)}) for s in of.matrices)
    assert policy.allocate(replace(of, matrices=spectra)) == policy.allocate(of)
    for column in policy.reads:
        without = tuple(replace(s, columns={c: v for c, v in s.columns.items() if c != column}) for s in of.matrices)
        with pytest.raises(PlanError, match=f"column='{column}' is not in the report"):
            policy.allocate(replace(of, matrices=without))


SCORES = {
    "uniform": "snr",
    "snr_top": "snr",
    "snr_top global": "snr",
    "snr_top threshold": "snr",
    "snr_tiers": "snr",
    "snr_tiers global": "snr",
    "snr_tiers thresholds": "snr",
    "gradient": "gradient",
    "gradient global": "gradient",
    "explained_variance": "input_rank",
}
"""Policies whose ranks follow one column; ht_sr's two are in its own tests."""


@pytest.mark.parametrize("name", SCORES)
@few
@given(of=models)
def test_a_higher_score_never_gets_a_lower_rank(name, of):
    ranks = {a.name: a.rank for a in POLICIES[name].allocate(of)}
    scopes = defaultdict(list)
    for spectrum in of.matrices:
        value = spectrum.columns[SCORES[name]]
        if value is not None:
            scope = None if "global" in name or "threshold" in name else spectrum.matrix.type
            scopes[scope].append((value, ranks[spectrum.matrix.name]))
        elif POLICIES[name].reads:
            assert ranks[spectrum.matrix.name] == 0
    for members in scopes.values():
        for value, rank in members:
            assert all(rank <= other for higher, other in members if higher > value)


@pytest.mark.parametrize("name", SCORES)
@few
@given(of=models, data=st.data())
def test_a_score_that_rises_never_lowers_its_own_rank(name, of, data):
    column = SCORES[name]
    known = [s for s in of.matrices if s.columns[column] is not None]
    one = data.draw(st.sampled_from(known))
    raised = min(one.columns[column] + data.draw(st.sampled_from([0.5, 1.0, 40.0])), 64.0 if "expl" in name else 1e3)
    changed = replace(one, columns=one.columns | {column: max(raised, one.columns[column])})
    after = replace(of, matrices=tuple(changed if s is one else s for s in of.matrices))
    before_and_after = [by_name(POLICIES[name].allocate(each))[one.matrix.name].rank for each in (of, after)]
    assert before_and_after == sorted(before_and_after)


EVEN = ["uniform", "snr_top", "snr_top threshold", "snr_tiers thresholds", "ht_sr", "ht_sr all", "gradient"]


@pytest.mark.parametrize("name", [*EVEN, "explained_variance"])
@pytest.mark.parametrize("target", [None, 5000, 9999, 12345])
def test_a_constant_report_gives_ranks_that_differ_by_one_at_most(name, target):
    values = {"snr": 3.0, "alpha_hill": 2.5, "num_spikes": 4.0, "gradient": 1e-4, "input_rank": 9.0}
    shapes = [matrix(f"{block}.q", (64, 96)) for block in range(9)]
    of = SpectralReport("constant", "", {}, tuple(MatrixSpectrum(m, None, values) for m in shapes))
    found = POLICIES[name].allocate(of)
    if target is not None:
        found = fitted(found, units(found, shapes, {m.name: Cost(a=96, b=64) for m in shapes}), target)
    ranks = [a.rank for a in found if a.rank]
    assert max(ranks) - min(ranks) <= (target is not None)


def with_nulls(reasons):
    """Six matrices, some of them without a value in any column, for a reason by block."""
    values = {"snr": 2.0, "alpha_hill": 3.0, "num_spikes": 1.0, "gradient": 0.5, "input_rank": 3.0}
    spectra = []
    for block in range(6):
        nulls = dict.fromkeys(values, reasons[block]) if block in reasons else {}
        columns = values | dict.fromkeys(nulls)
        spectra.append(MatrixSpectrum(matrix(f"{block}.q", SHAPES["q"]), None, columns, nulls))
    return SpectralReport("by hand", "", {}, tuple(spectra))


@pytest.mark.parametrize("name", [name for name in POLICIES if POLICIES[name].reads])
@pytest.mark.parametrize("reasons", [{4: "flat"}, {1: "flat", 2: "too small", 5: "flat"}])
def test_matrices_whose_column_is_null_stay_frozen_and_are_counted_with_their_reasons(name, reasons, caplog):
    policy = POLICIES[name]
    allocations = policy.allocate(with_nulls(reasons))
    assert all(allocations[block].rank == 0 for block in reasons)
    assert len(caplog.messages) == len(policy.reads)
    for column in policy.reads:
        (line,) = [each for each in caplog.messages if f"={column} " in each]
        assert line.startswith(f"{len(reasons)} of 6 matrices ")
        for reason in set(reasons.values()):
            assert f"{list(reasons.values()).count(reason)} of them: {reason}" in line


def test_of_many_reasons_the_most_common_are_said_and_the_others_counted(caplog):
    reasons = dict(enumerate(["a", "a", "b", "c", "d"]))
    top(with_nulls(reasons).matrices, column="snr", fraction=1.0, scope="global")
    (line,) = caplog.messages
    assert "2 of them: a; 1 of them: b; 1 of them: c; 1 of them: other reasons" in line


@pytest.mark.parametrize("name", POLICIES)
def test_where_nothing_is_null_nothing_is_said(name, caplog):
    POLICIES[name].allocate(with_nulls({}))
    assert not caplog.messages
