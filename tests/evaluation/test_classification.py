"""Oracles: counts by hand, and scikit-learn, which the harness brings along."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from spectral_ft.evaluation.classification import f1, standard_error
from tests.oracles import law


@pytest.mark.parametrize(
    ("gold", "predicted", "classes", "positive", "value"),
    [
        ([1, 1, 1, 0], [1, 1, 0, 1], 2, 1, 4 / 6),  # tp 2, fn 1, fp 1
        ([1, 1, 1, 0], [1, 1, 0, 1], 2, 0, 0.0),
        ([0, 0, 0, 1], [1, 0, 0, 1], 2, 0, 4 / 5),  # tp 2, fn 1
        ([0, 0, 0, 1], [1, 1, 1, 0], 2, 1, 0.0),
        ([0, 0], [0, 0], 2, 1, 0.0),  # the positive class is nowhere
        ([1, 0], [1, 0], 2, 1, 1.0),
        ([0, 1, 2, 2], [0, 2, 2, 2], 3, 0, (1 + 0 + 4 / 5) / 3),
        ([0, 0, 2], [0, 2, 2], 3, 1, (2 / 3 + 2 / 3) / 2),  # class 1 is nowhere
    ],
)
def test_f1_by_hand(gold, predicted, classes, positive, value):
    assert f1(gold, predicted, classes=classes, positive=positive) == pytest.approx(value)


@law
@given(
    st.tuples(
        st.integers(2, 5).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))),
        st.integers(0, 1),
    )
)
def test_f1_is_scikit_learns(drawn):
    (classes, pairs), positive = drawn
    gold, predicted = zip(*[*pairs, (0, 0), (1, 1)], strict=True)
    how = {"average": "binary", "pos_label": positive} if classes == 2 else {"average": "macro"}
    theirs = f1_score(gold, predicted, zero_division=0, **how)
    assert f1(gold, predicted, classes=classes, positive=positive) == pytest.approx(theirs)


def test_the_standard_error_of_a_share_is_the_harness_s():
    from lm_eval.api.metrics import mean_stderr

    values = [1.0, 1.0, 0.0, 1.0, 0.0]
    assert standard_error(values) == pytest.approx(mean_stderr(values))
    assert standard_error(np.array(values)) == pytest.approx((0.6 * 0.4 / 4) ** 0.5)


def test_a_single_item_has_no_standard_error():
    assert standard_error([1.0]) is None
