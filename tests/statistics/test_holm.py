"""Holm's correction; oracle: the step-down rule written out, and a worked example of it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_ft.statistics.holm import with_holm
from spectral_ft.statistics.paired import paired_difference
from tests.oracles import law

few = settings(law, max_examples=12)
"""statsmodels collects garbage in every call, which in a process with torch in it takes half a second."""
ONE = paired_difference([1, 0, 1], [0, 0, 1], draws=9)


def corrected(values, **options):
    return [found.p_holm for found in with_holm([replace(ONE, p=p) for p in values], **options)]


@few
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_each_p_is_the_largest_so_far_of_those_times_the_tests_left(values):
    order, largest, expected = sorted(range(len(values)), key=values.__getitem__), 0.0, {}
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        expected[place] = largest
    assert corrected(values) == pytest.approx([expected[place] for place in range(len(values))])


@few
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=8))
def test_of_tests_that_were_chosen_none_stands_that_would_not_among_all(tests):
    every = corrected([p for p, _ in tests])
    shown = [place for place, (_, chosen) in enumerate(tests) if chosen]
    found = corrected([tests[place][0] for place in shown], tests=len(tests))
    assert all(p >= every[place] - 1e-12 for p, place in zip(found, shown, strict=True))


def test_of_tests_that_were_chosen_the_others_count():
    assert corrected([0.01, 0.002], tests=6) == pytest.approx([0.05, 0.012])
    assert corrected([0.01, 0.002], tests=2) == corrected([0.01, 0.002])


def test_an_example_and_an_empty_table():
    assert corrected([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert corrected([]) == [] and ONE.p_holm is None
