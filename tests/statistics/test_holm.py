"""Holm's correction; oracle: the step-down rule written out, and a worked example of it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.statistics.holm import with_holm
from spectral_ft.statistics.paired import paired_difference
from tests.oracles import law

ONE = paired_difference([1, 0, 1], [0, 0, 1], draws=9)


def corrected(values):
    return [found.p_holm for found in with_holm([replace(ONE, p=p) for p in values])]


@law
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_each_p_is_the_largest_so_far_of_those_times_the_tests_left(values):
    order, largest, expected = sorted(range(len(values)), key=values.__getitem__), 0.0, {}
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        expected[place] = largest
    assert corrected(values) == pytest.approx([expected[place] for place in range(len(values))])


def test_an_example_and_an_empty_table():
    assert corrected([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert corrected([]) == [] and ONE.p_holm is None
