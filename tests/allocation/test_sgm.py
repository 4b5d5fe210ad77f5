"""Oracle: families of matrices with planted Gram matrices, and the laws that every grouping obeys."""

import itertools
import logging
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from spectral_ft.allocation.clusters import adjacent_groups, joint_distances, linked_groups, random_groups
from spectral_ft.allocation.grouping import check_groups, share_classes
from spectral_ft.allocation.sgm import Sgm
from spectral_ft.allocation.similarity import pair_similarities
from spectral_ft.errors import ConfigError, PlanError
from spectral_ft.storage import read_json, write_json
from spectral_ft.types import MatrixAllocation, MatrixShape, MatrixSpectrum, Probe, SpectralReport
from tests.oracles import gaussian, law, report, rotation

K = 12
DEFAULTS = {
    "similarity": "gram",
    "like": "gram",
    "by": "type",
    "column": "snr",
    "snr_threshold": 0.1,
    "threshold": None,
    "threshold_quantile": None,
    "max_size": 8,
    "share": None,
    "seed": 0,
}
SIDES = {"q": "reads", "k": "reads", "o": "writes", "x": "unknown"}


def sgm(**options):
    return Sgm(**DEFAULTS | options)


def name(short):
    return f"model.layers.{short}"


def spectra(values):
    """`3.q` becomes a matrix of block 3 with this value of `snr`; its type tells its side."""
    return tuple(
        MatrixSpectrum(
            MatrixShape(name(short), short.partition(".")[2], SIDES[short[-1]], int(short.partition(".")[0]), (32, 32)),
            None,
            {"snr": value},
        )
        for short, value in values.items()
    )


def of(values):
    return SpectralReport("by hand", "", {}, spectra(values))


def adapted(names, **options):
    given = {"rank": 4, "lora_alpha": 8.0} | options
    return tuple(MatrixAllocation(name(short), **given) for short in names)


def family_probe(families, *, noise=0.02, side="reads"):
    """Gradients that act on two directions of their family, and differ on the other side."""
    sketches = {}
    for seed, (short, family) in enumerate(families.items()):
        sketch = rotation(K, seed=seed)[:, :2] @ gaussian(2, K, seed=1000 + family)
        sketch = sketch + noise * gaussian(K, K, seed=2000 + seed)
        sketches[name(short)] = (sketch if side == "reads" else sketch.T).astype(np.float32)
    halves = {key: (0.5 * sketch)[: K // 2, : K // 2] for key, sketch in sketches.items()}
    return Probe((), {}, sketches=sketches, half_sketches=halves)


def groups_of(allocations):
    found = {}
    for allocation in allocations:
        if allocation.group is not None:
            found.setdefault(allocation.group, set()).add(allocation.name.removeprefix("model.layers."))
    return found


def formed(allocations):
    return {frozenset(members) for members in groups_of(allocations).values()}


FAMILIES = {f"{block}.q": block % 3 for block in range(12)}
EQUAL = dict.fromkeys(FAMILIES, 1.0)
PROBE = family_probe(FAMILIES)
PLANTED = {frozenset(short for short, own in FAMILIES.items() if own == family) for family in range(3)}


def test_planted_families_are_found_and_share_the_factor_that_reads_the_stream():
    grouped = sgm(threshold=0.5).group(adapted(FAMILIES), of(EQUAL), PROBE)
    assert groups_of(grouped) == {f"q/{family}": {f"{b}.q" for b in range(family, 12, 3)} for family in range(3)}
    assert {allocation.shares for allocation in grouped} == {"A"}
    assert [replace(a, group=None, shares=None) for a in grouped] == list(adapted(FAMILIES))


def test_writers_share_the_factor_that_writes():
    families = {short.replace("q", "o"): family for short, family in FAMILIES.items()}
    probe = family_probe(families, side="writes")
    grouped = sgm(threshold=0.5).group(adapted(families), of(dict.fromkeys(families, 1.0)), probe)
    assert len(formed(grouped)) == 3 and {allocation.shares for allocation in grouped} == {"B"}


def test_by_default_gram_groups_the_tenth_most_alike():
    """The pairs above the quantile 0.9 lie within the families, which hold 18 of 66 pairs."""
    found = formed(sgm().group(adapted(FAMILIES), of(EQUAL), PROBE))
    assert found and all(any(members <= family for family in PLANTED) for members in found)
    assert sum(len(m) * (len(m) - 1) // 2 for m in found) <= 7
    assert found == formed(sgm(threshold_quantile=0.9).group(adapted(FAMILIES), of(EQUAL), PROBE))
    assert formed(sgm(threshold_quantile=0.75).group(adapted(FAMILIES), of(EQUAL), PROBE)) != found


def test_cosine_does_not_see_them_and_says_so(caplog):
    with caplog.at_level(logging.INFO):
        grouped = sgm(similarity="cosine").group(adapted(FAMILIES), of(EQUAL), PROBE)
    assert grouped == adapted(FAMILIES)
    (record,) = caplog.records
    largest = max(pair.similarity for pair in pair_similarities(shapes(EQUAL), PROBE, similarity="cosine", by="type"))
    assert record.levelname == "WARNING" and 0 < largest < 0.5
    assert f"largest similarity {largest:.2f}, split-half agreement 1.00, limit 0.50" in record.getMessage()
    assert "no two of 12 matrices are close enough to share, so each has its own adapter" in record.getMessage()


def shapes(values):
    return [spectrum.matrix for spectrum in spectra(values)]


def test_cosine_groups_what_is_alike_and_shares_the_pair():
    sketches = {name(f"{b}.q"): gaussian(K, K, seed=b % 2) + 0.1 * gaussian(K, K, seed=90 + b) for b in range(6)}
    columns = {f"{block}.q": 1.0 for block in range(6)}
    grouped = sgm(similarity="cosine").group(adapted(columns), of(columns), Probe((), {}, sketches=sketches))
    assert groups_of(grouped) == {"q/0": {"0.q", "2.q", "4.q"}, "q/1": {"1.q", "3.q", "5.q"}}
    assert {allocation.shares for allocation in grouped} == {"AB"}


def test_the_column_keeps_apart_what_is_alike_by_gradient():
    values = {short: 1.0 if int(short.partition(".")[0]) < 6 else 9.0 for short in FAMILIES}
    found = formed(sgm(threshold=0.5).group(adapted(FAMILIES), of(values), PROBE))
    assert found == {frozenset({f"{low + high}.q", f"{low + 3 + high}.q"}) for low in range(3) for high in (0, 6)}


def test_the_column_alone_needs_no_probe_and_counts_in_logarithms():
    values = {"0.q": 1.0, "1.q": 1.5, "2.q": 100.0, "3.q": 150.0, "4.q": 1e5}
    policy = sgm(similarity="snr")
    assert not policy.reads_sketches and policy.reads == {"snr"}
    grouped = policy.group(adapted(values), of(values), None)
    assert groups_of(grouped) == {"q/0": {"0.q", "1.q"}, "q/1": {"2.q", "3.q"}}
    assert {a.shares for a in grouped if a.group} == {"AB"}


def test_a_limit_itself_is_held():
    values = {"0.q": 1.0, "1.q": 10.0, "2.q": 1e10}
    assert formed(sgm(similarity="snr").group(adapted(values), of(values), None)) == {frozenset({"0.q", "1.q"})}
    values["1.q"] = 10.1
    assert not formed(sgm(similarity="snr").group(adapted(values), of(values), None))
    assert formed(sgm(similarity="snr", snr_threshold=0.11).group(adapted(values), of(values), None))


def test_no_chain_of_neighbours_joins_what_is_far_apart():
    values = {f"{block}.q": 10.0 ** (0.08 * block) for block in range(13)}
    found = formed(sgm(similarity="snr").group(adapted(values), of(values), None))
    assert found and max(map(len, found)) == 2


def test_only_equals_share():
    values = {f"{block}.q": 1.0 for block in range(8)}
    own = [{}, {"rank": 2}, {"lora_alpha": 4.0}, {"lr_multiplier": 0.5}]
    given = [adapted([short], **own[index // 2])[0] for index, short in enumerate(values)]
    found = formed(sgm(similarity="snr").group(tuple(given), of(values), None))
    assert found == {frozenset({f"{block}.q", f"{block + 1}.q"}) for block in (0, 2, 4, 6)}


def test_frozen_matrices_are_left_alone():
    values = {f"{block}.q": 1.0 for block in range(4)}
    given = (*adapted(["0.q", "3.q"], rank=0, lora_alpha=0.0), *adapted(["1.q", "2.q"]))
    assert formed(sgm(similarity="snr").group(given, of(values), None)) == {frozenset({"1.q", "2.q"})}


def test_earlier_groups_are_forgotten():
    values = {"0.q": 1.0, "1.q": 1.0, "2.q": 5.0}
    earlier = adapted(values, group="old", shares="B")
    grouped = sgm(similarity="snr").group(earlier, of(values), None)
    assert [(a.group, a.shares) for a in grouped] == [("q/0", "AB"), ("q/0", "AB"), (None, None)]
    assert sgm(similarity="snr").group(grouped, of(values), None) == grouped


def test_kinds_of_one_shape_may_share_when_asked():
    values = {"0.q": 1.0, "0.k": 1.0, "0.o": 1.0, "1.o": 1.0}
    found = groups_of(sgm(similarity="snr", by="shape").group(adapted(values), of(values), None))
    assert found == {"reads-32x32/0": {"0.q", "0.k"}, "writes-32x32/0": {"0.o", "1.o"}}


def test_a_value_without_a_logarithm_is_left_alone_and_counted(caplog):
    values = {"0.q": 1.0, "1.q": None, "2.q": 1.0, "3.q": -1.0}
    with caplog.at_level(logging.INFO):
        grouped = sgm(similarity="snr").group(adapted(values), of(values), None)
    assert formed(grouped) == {frozenset({"0.q", "2.q"})}
    assert "2 of 4 matrices have no positive snr" in caplog.text
    assert "grouped 2 of 4 matrices in 1 groups (snr)" in caplog.text


def test_a_class_too_small_to_compare_is_said_to_be(caplog):
    values = {"0.q": 1.0, "1.q": 1.0}
    probe = family_probe(dict.fromkeys(values, 0))
    assert sgm().group(adapted(values), of(values), probe) == adapted(values)
    assert "largest similarity unknown, split-half agreement 1.00" in caplog.text
    assert "smallest difference of ln snr 0.00, limit 0.1" in caplog.text


def test_the_headline_tells_what_was_found(caplog):
    with caplog.at_level(logging.INFO):
        sgm(threshold=0.5).group(adapted(FAMILIES), of(EQUAL), replace(PROBE, half_sketches={}))
    (record,) = caplog.records
    largest = max(pair.similarity for pair in pair_similarities(shapes(EQUAL), PROBE, similarity="gram", by="type"))
    seen = f"gram, largest similarity {largest:.2f}, split-half agreement unknown, limit 0.50"
    assert record.getMessage() == f"grouped 12 of 12 matrices in 3 groups ({seen})"


@pytest.mark.parametrize("control", ["random", "adjacent"])
def test_a_control_looks_at_no_gradient_of_its_own(control, caplog):
    policy = sgm(similarity=control, like="snr")
    assert not policy.reads_sketches and policy.reads == {"snr"}
    values = {"0.q": 1.0, "1.q": 50.0, "2.q": 1.0}
    with caplog.at_level(logging.INFO):
        grouped = policy.group(adapted(values), of(values), None)
    assert [len(members) for members in formed(grouped)] == [2] and {a.shares for a in grouped} <= {"AB", None}
    assert f"({control} like snr)" in caplog.text
    assert sgm(similarity=control).reads_sketches


def test_a_random_control_moves_members_and_its_seed_moves_them_again():
    plans = [
        formed(sgm(similarity="random", threshold=0.5, seed=seed).group(adapted(FAMILIES), of(EQUAL), PROBE))
        for seed in range(6)
    ]
    assert all(sorted(map(len, plan)) == [4, 4, 4] and plan != PLANTED for plan in plans)
    assert len({frozenset(plan) for plan in plans}) == 6


def test_a_random_control_draws_from_the_whole_class():
    values = {f"{block}.q": 1.0 if block < 2 else 10.0**block for block in range(10)}
    drawn = Counter()
    for seed in range(40):
        (members,) = formed(sgm(similarity="random", like="snr", seed=seed).group(adapted(values), of(values), None))
        drawn.update(members)
    assert set(drawn) == set(values) and sum(drawn.values()) == 80


def test_an_adjacent_control_takes_neighbours():
    grouped = sgm(similarity="adjacent", threshold=0.5).group(adapted(FAMILIES), of(EQUAL), PROBE)
    assert formed(grouped) == {frozenset(f"{b}.q" for b in range(start, start + 4)) for start in (0, 4, 8)}
    assert {allocation.shares for allocation in grouped} == {"AB"}
    same_share = sgm(similarity="adjacent", threshold=0.5, share="residual_side")
    assert {a.shares for a in same_share.group(adapted(FAMILIES), of(EQUAL), PROBE)} == {"A"}


def test_those_left_alone_are_spread_between_neighbours():
    generator = np.random.default_rng(0)
    assert adjacent_groups([2, 2], 10, generator) == [[2, 3], [6, 7]]
    assert adjacent_groups([3], 3, generator) == [[0, 1, 2]]
    assert adjacent_groups([], 3, generator) == random_groups([], 3, generator) == []


@law
@given(st.lists(st.integers(2, 5), max_size=5), st.integers(0, 9), st.integers(0, 100))
def test_controls_have_exactly_these_sizes_and_no_member_twice(sizes, alone, seed):
    count = sum(sizes) + alone
    for control in (random_groups, adjacent_groups):
        groups = control(sizes, count, np.random.default_rng(seed))
        members = [member for group in groups for member in group]
        assert [len(group) for group in groups] == sizes
        assert len(set(members)) == len(members) and set(members) <= set(range(count))
    assert all(group == list(range(group[0], group[0] + len(group))) for group in groups)


matrices = st.tuples(
    st.sampled_from(["q", "q", "q", "k", "o"]),
    st.one_of(st.sampled_from([0.5, 1.0, 1.1]), st.floats(0.5, 2)),
    st.sampled_from([4, 4, 4, 2]),
    st.integers(0, 2),
)
plans = st.lists(matrices, min_size=4, max_size=24).map(
    lambda rows: {f"{block}.{kind}": rest for block, (kind, *rest) in enumerate(rows)}
)
"""Name to value of the column, rank and family."""


def case(plan):
    allocations = tuple(MatrixAllocation(name(short), rank, 8.0) for short, (_, rank, _) in plan.items())
    probe = family_probe({short: family for short, (_, _, family) in plan.items()}, noise=0.1)
    return allocations, of({short: value for short, (value, _, _) in plan.items()}), probe


options = st.fixed_dictionaries({
    "similarity": st.sampled_from(["gram", "cosine", "snr", "random", "adjacent"]),
    "by": st.sampled_from(["type", "shape"]),
    "snr_threshold": st.sampled_from([0.2, 0.4, 1.0]),
    "max_size": st.integers(2, 4),
})


@law
@given(plans, options)
def test_groups_are_legal_within_share_classes_and_no_larger_than_allowed(plan, chosen):
    allocations, known, probe = case(plan)
    grouped = sgm(**chosen).group(allocations, known, probe)
    check_groups(grouped, [spectrum.matrix for spectrum in known.matrices])
    assert [replace(a, group=None, shares=None) for a in grouped] == list(allocations)
    kinds = {short: (SIDES[short[-1]], short[-1] if chosen["by"] == "type" else "") for short in plan}
    for members in formed(grouped):
        assert 2 <= len(members) <= chosen["max_size"]
        assert len({(kinds[short], plan[short][1]) for short in members}) == 1


@law
@given(plans, options.filter(lambda chosen: chosen["similarity"] in {"gram", "cosine", "snr"}), st.floats(0, 0.9))
def test_every_pair_in_a_group_holds_both_limits(plan, chosen, quantile):
    """The limits are computed here once more, pair by pair."""
    limited = {} if chosen["similarity"] == "snr" else {"threshold_quantile": quantile}
    allocations, known, probe = case(plan)
    groups = formed(sgm(**chosen, **limited).group(allocations, known, probe))
    similar, apart = {}, {}
    for rank in (2, 4):
        same = [spectrum.matrix for spectrum in known.matrices if plan[spectrum.matrix.name[13:]][1] == rank]
        for members in share_classes(same, by=chosen["by"]):
            logarithms = {member.name[13:]: np.log(plan[member.name[13:]][0]) for member in members}
            span = max(logarithms.values()) - min(logarithms.values())
            for (a, one), (b, other) in itertools.product(logarithms.items(), repeat=2):
                apart[a, b] = abs(one - other) / span if span else 0.0
        if limited:
            pairs = pair_similarities(same, probe, similarity=chosen["similarity"], by=chosen["by"])
            similar |= {frozenset((pair.first[13:], pair.second[13:])): pair.similarity for pair in pairs}
    limit = np.quantile(list(similar.values()), quantile) if similar else 0.0
    for members in groups:
        for a in members:
            for b in members - {a}:
                assert apart[a, b] <= chosen["snr_threshold"] + 1e-9
                assert not limited or similar[frozenset((a, b))] >= limit - 1e-9


@law
@given(plans, options, st.randoms(use_true_random=False))
def test_the_order_of_matrices_and_of_allocations_is_irrelevant(plan, chosen, rng: random.Random):
    allocations, known, probe = case(plan)
    shuffled, turned = list(allocations), list(known.matrices)
    rng.shuffle(shuffled)
    rng.shuffle(turned)
    sketches = dict(reversed(probe.sketches.items()))
    other = sgm(**chosen).group(
        tuple(shuffled), replace(known, matrices=tuple(turned)), replace(probe, sketches=sketches)
    )
    assert set(other) == set(sgm(**chosen).group(allocations, known, probe))


@law
@given(plans, st.sampled_from(["gram", "cosine", "snr"]), st.integers(2, 4))
def test_controls_copy_the_sizes_in_each_class(plan, like, max_size):
    allocations, known, probe = case(plan)

    def sizes(**chosen):
        found = formed(sgm(snr_threshold=1.0, max_size=max_size, **chosen).group(allocations, known, probe))
        return sorted((plan[next(iter(g))][1], next(iter(g))[-1], len(g)) for g in found)

    assert sizes(similarity="random", like=like) == sizes(similarity="adjacent", like=like) == sizes(similarity=like)


def test_a_large_cluster_is_split_where_the_tree_joined_it_last():
    position = np.array([0.0, 0.1, 0.5, 0.6, 0.61])
    distances = np.abs(position[:, None] - position[None, :])
    assert linked_groups(distances, max_size=5) == [[0, 1, 2, 3, 4]]
    assert linked_groups(distances, max_size=4) == [[0, 1], [2, 3, 4]]
    assert linked_groups(distances, max_size=2) == [[0, 1], [3, 4]]
    assert linked_groups(distances[:1, :1], max_size=2) == []


def test_a_pair_that_cannot_be_compared_is_out_of_reach():
    similar = np.array([[1.0, np.nan, 0.5], [np.nan, 1.0, 1.0], [0.5, 1.0, 1.0]])
    joint = joint_distances(np.zeros((3, 3)), similar, snr_threshold=0.1, limit=0.5)
    assert joint[0, 1] > 1e6 and joint[0, 2] == 1 and joint[1, 2] == 0
    strict = joint_distances(np.zeros((3, 3)), similar, snr_threshold=0.1, limit=1.0)
    assert np.isfinite(strict).all() and strict[1, 2] == 0 and strict[0, 2] > 1


def test_a_plan_with_groups_survives_its_file(tmp_path):
    grouped = sgm(threshold=0.5).group(adapted(FAMILIES), of(EQUAL), PROBE)
    write_json(tmp_path / "plan.json", grouped)
    assert read_json(tmp_path / "plan.json", tuple[MatrixAllocation, ...]) == grouped
    assert sgm(threshold=0.5).group(adapted(FAMILIES), of(EQUAL), PROBE) == grouped


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threshold": 0.5, "threshold_quantile": 0.9}, r"threshold=0\.5 and grouping\.threshold_quantile=0\.9: give"),
        ({"similarity": "snr", "threshold": 0.5}, r"similarity=snr compares no gradients, so grouping\.threshold"),
        ({"similarity": "random", "like": "snr", "threshold_quantile": 0.5}, r"similarity=random like snr compares no"),
    ],
)
def test_limits_that_cannot_be_held_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        sgm(**changes)


@pytest.mark.parametrize(
    "wrong",
    [
        {"similarity": "euclid"},
        {"like": "random"},
        {"by": "block"},
        {"snr_threshold": 0.0},
        {"threshold": 1.0},
        {"threshold_quantile": 1.5},
        {"max_size": 1},
        {"share": "A"},
        {"seed": -1},
    ],
)
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        sgm(**wrong)


@pytest.mark.parametrize(
    ("chosen", "names", "probe", "words"),
    [
        ({}, ["0.q"], None, r"grouping\.similarity=gram compares gradients and there is no probe"),
        ({"similarity": "random"}, ["0.q"], None, r"grouping\.similarity=random like gram compares .* no probe"),
        ({}, ["0.q", "12.q"], PROBE, r"needs the gradient sketch of model\.layers\.12\.q, and the probe has 12 others"),
        ({"column": "alpha"}, ["0.q"], PROBE, r"grouping\.column='alpha' is not in the report; its columns are snr"),
        ({"similarity": "snr", "share": "residual_side"}, ["0.x"], None, r"whether model\.layers\.0\.x .*share=pair"),
        ({"share": "pair"}, ["0.x"], PROBE, r"gradient sketch of model\.layers\.0\.x"),
    ],
)
def test_what_is_missing_is_named(chosen, names, probe, words):
    with pytest.raises(PlanError, match=words):
        sgm(**chosen).group(adapted(names), of(dict.fromkeys(names, 1.0)), probe)


def test_an_adapted_matrix_that_the_report_lacks_is_named():
    with pytest.raises(PlanError, match=r"model\.layers\.1\.q is adapted but none of the 1 matrices"):
        sgm(similarity="snr").group(adapted(["1.q"]), report({"0.q": 1.0}), None)
