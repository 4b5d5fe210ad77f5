"""Two arms item by item; oracle: sets of items counted by hand, and the paired statistics."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.reporting.page.answers import LETTERS, clipped, pair_views
from spectral_ft.reporting.page.arms import Arm
from spectral_ft.reporting.page.pairs import PAIRS, _apart, pairs_of
from spectral_ft.reporting.page.scores import Score, scores_of
from spectral_ft.reporting.page.views import Style
from spectral_ft.statistics.holm import with_holm
from spectral_ft.statistics.paired import paired_difference
from tests.oracles import law
from tests.reporting.page.folders import arms_in, write_full

ONE, TWO = [1, 1, 0, 0, 1, 0], [0, 1, 1, 0, 0, 0]


def score_of(table):
    values = np.array(table, dtype=float)
    prompts = {item: f"q{item}" for item in range(values.shape[1])}
    arm = Arm("a", Style(0), ())
    key = ("t", "exact_match", "strict")
    return Score(key, arm, "tuned", 0.0, None, None, len(prompts), len(values), True, values, (), prompts)


def found(folder):
    arms = arms_in(folder)
    return pairs_of(arms, scores_of(arms))


def test_items_that_only_one_has_right(tmp_path):
    write_full(tmp_path / "a", "one", {"aqua": {"tuned": ONE}})
    write_full(tmp_path / "b", "two", {"aqua": {"tuned": TWO}})
    (pair,), notes = found(tmp_path)
    assert pair.only_first == (0, 4) and pair.only_other == (2,) and notes == ()
    (expected,) = with_holm([paired_difference(ONE, TWO)])
    assert pair.found == expected
    (view,) = pair_views([pair])
    assert [(item.id, item.prompt_hash, item.gold) for item in view.only_first.items] == [
        (0, "q0", "gold 0"),
        (4, "q4", "gold 4"),
    ]
    assert view.only_first.items[0].first.text == "one says 0" and view.only_first.items[0].other.text == "two says 0"
    assert [view.only_other.items[0].first.right, view.only_other.items[0].other.right] == ["wrong", "right"]


@law
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.randoms(use_true_random=False))
def test_items_are_sorted_by_how_many_seeds_have_them(seeds, others, items, random):
    one, two = ([[random.randint(0, 1) for _ in range(items)] for _ in range(rows)] for rows in (seeds, others))
    ahead, behind = _apart(score_of(one), score_of(two))
    gaps = [sum(row[at] for row in one) / seeds - sum(row[at] for row in two) / others for at in range(items)]
    assert set(ahead) == {at for at in range(items) if gaps[at] > 0}
    assert set(behind) == {at for at in range(items) if gaps[at] < 0}
    assert [gaps[at] for at in ahead] == sorted((gaps[at] for at in ahead), reverse=True)
    assert [gaps[at] for at in behind] == sorted(gaps[at] for at in behind)


def test_over_seeds_the_answer_is_of_a_seed_that_gave_it(tmp_path):
    said = {0: "first wrong", 1: "then right"}
    for seed in (0, 1):
        responses = {("tuned", 0): said[seed]}
        write_full(tmp_path / f"a{seed}", "one", {"aqua": {"tuned": [seed, 1]}}, seed=seed, responses=responses)
        write_full(tmp_path / f"b{seed}", "two", {"aqua": {"tuned": [0, 1]}}, seed=seed)
    (view,) = pair_views(found(tmp_path)[0])
    (item,) = view.only_first.items
    assert item.first.text == "then right" and item.first.right == "right in 1 of 2 seeds"
    assert item.other.text == "two says 0" and item.other.right == "right in 0 of 2 seeds" and view.over_seeds


def test_p_is_corrected_over_all_pairs(tmp_path):
    answers = {"one": np.repeat([1, 0], [12, 8]), "two": np.repeat([1, 0], [4, 16]), "three": np.zeros(20)}
    for name, values in answers.items():
        write_full(tmp_path / name, name, {"aqua": {"tuned": values}})
    pairs, _ = found(tmp_path)
    alone = [paired_difference(answers[p.first.arm.name], answers[p.other.arm.name]) for p in pairs]
    assert len(pairs) == 3 and [p.found for p in pairs] == list(with_holm(alone))


def test_other_items_are_not_compared(tmp_path):
    write_full(tmp_path / "a", "one", {"aqua": {"tuned": ONE}})
    write_full(tmp_path / "b", "two", {"aqua": {"tuned": TWO[:-1]}})
    pairs, notes = found(tmp_path)
    assert pairs == () and notes == ("one and two were not scored on the same items of aqua, or lack them.",)


def test_of_many_arms_the_first_and_the_best_are_set_beside_all(tmp_path):
    for n in range(7):
        write_full(tmp_path / f"{n}", f"arm{n}", {"aqua": {"tuned": [1, 1, n == 4, n == 4]}})
    pairs, notes = found(tmp_path)
    named = {frozenset((pair.first.arm.name, pair.other.arm.name)) for pair in pairs}
    others = {f"arm{n}" for n in range(7)}
    assert named == {frozenset((end, other)) for end in ("arm0", "arm4") for other in others - {end}}
    assert PAIRS < 21 and notes == (
        f"{len(named)} of 21 pairs are here: arm0 and arm4 with all others; p is corrected over all 21.",
    )


def test_the_pairs_that_are_not_shown_count_in_the_correction(tmp_path):
    answers = {f"arm{n}": np.repeat([1, 0], [2 * n, 24 - 2 * n]) for n in (0, 6, 1, 2, 3, 4, 5)}
    for n, (name, values) in enumerate(answers.items()):
        write_full(tmp_path / f"{n}", name, {"aqua": {"tuned": values}})
    pairs, _ = found(tmp_path)
    assert len(pairs) == 11
    every = {frozenset(pair): paired_difference(*(answers[name] for name in pair)) for pair in combinations(answers, 2)}
    full = dict(zip(every, with_holm(list(every.values())), strict=True))
    ranked = sorted(pairs, key=lambda pair: pair.found.p)
    largest = 0.0
    for rank, pair in enumerate(ranked):
        largest = max(largest, min(1.0, (21 - rank) * pair.found.p))
        assert pair.found.p_holm == pytest.approx(largest)
        assert pair.found.p_holm >= full[frozenset((pair.first.arm.name, pair.other.arm.name))].p_holm - 1e-12


def test_long_answers_are_clipped():
    assert clipped("x" * LETTERS) == "x" * LETTERS
    assert clipped("x" * (LETTERS + 5)) == "x" * LETTERS + "… (5 more letters)"
    assert clipped(None) == "-" and clipped(0) == "0"
