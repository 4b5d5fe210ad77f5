"""Oracle: rank correlations and changes by hand, and scipy's Spearman."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from spectral_ft.errors import CheckpointError
from spectral_ft.reporting.report_difference import jaccard, report_difference
from spectral_ft.types import MatrixSpectrum, SpectralReport
from tests.oracles import matrix

NAMES = [f"{block}.q_proj" for block in range(5)]


def of_columns(names=NAMES, model="m", **columns):
    """A report with these columns, a value a matrix."""
    spectra = tuple(
        MatrixSpectrum(matrix(name), None, {column: values[at] for column, values in columns.items()})
        for at, name in enumerate(names)
    )
    return SpectralReport(model=model, fingerprint="", settings={}, matrices=spectra)


def moved(before, after):
    return report_difference(of_columns(snr=before), of_columns(snr=after)).loc["snr"]


def test_the_same_report_has_not_moved():
    row = moved([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    assert (row["matrices"], row["median_change"], row["largest_change"]) == (5, 0, 0)
    assert row["spearman"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("after", "spearman"),
    [
        ([10, 20, 30, 40, 50], 1),
        ([5, 4, 3, 2, 1], -1),
        ([2, 1, 3, 4, 5], 0.9),  # 1 - 6 (1 + 1) / (5 x 24)
        ([2, 1, 4, 3, 5], 0.8),
        ([5, 2, 3, 4, 1], -0.6),  # 1 - 6 (16 + 16) / 120
    ],
)
def test_rank_correlations_by_hand(after, spearman):
    assert moved([1, 2, 3, 4, 5], after)["spearman"] == pytest.approx(spearman)


def test_ties_get_the_mean_of_their_ranks():
    before, after = [1.0, 2.0, 2.0, 3.0, 3.0], [2.0, 2.0, 5.0, 1.0, 7.0]
    assert moved(before, after)["spearman"] == pytest.approx(spearmanr(before, after).statistic)


def test_changes_are_relative_to_the_first_report():
    row = moved([1.0, 2.0, 4.0, -2.0, 10.0], [1.1, 1.0, 4.0, -3.0, 10.0])  # 10, 50, 0, 50, 0 percent
    assert row["median_change"] == pytest.approx(0.1)
    assert row["largest_change"] == pytest.approx(0.5)


def test_a_zero_has_no_relative_change():
    row = moved([0.0, 2.0, 4.0, 5.0, 10.0], [7.0, 2.2, 4.0, 5.0, 10.0])
    assert row["matrices"] == 5
    assert row["largest_change"] == pytest.approx(0.1)


@pytest.mark.parametrize("missing", [None, math.inf])
def test_what_either_report_does_not_have_is_left_out(missing):
    row = moved([1.0, 2.0, 3.0, missing, 5.0], [1.0, missing, 6.0, 4.0, 4.0])
    assert row["matrices"] == 3
    assert row["spearman"] == pytest.approx(0.5)  # 1, 3, 2: 1 - 6 (1 + 1) / 24
    assert row["largest_change"] == pytest.approx(1)


def test_a_column_that_means_nothing_anywhere_has_no_numbers():
    row = moved([None] * 5, [None] * 5)
    assert row["matrices"] == 0
    assert row[["spearman", "median_change", "largest_change"]].isna().all()


@pytest.mark.parametrize(("before", "after"), [([3] * 5, [1, 2, 3, 4, 5]), ([1, 2, 3, 4, 5], [3] * 5)])
def test_what_does_not_vary_has_no_rank_correlation(before, after):
    row = moved(before, after)
    assert math.isnan(row["spearman"])
    assert row["largest_change"] == pytest.approx(max(abs(b / a - 1) for a, b in zip(before, after, strict=True)))


def test_matrices_are_compared_by_name_and_not_by_place():
    before = of_columns(snr=[1.0, 2.0, 3.0, 4.0, 5.0])
    after = of_columns(names=NAMES[::-1], snr=[5.0, 4.0, 3.0, 2.0, 1.0])
    row = report_difference(before, after).loc["snr"]
    assert row["spearman"] == pytest.approx(1)
    assert row["largest_change"] == 0


def test_columns_of_a_null_and_of_one_report_alone_are_left_out():
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    shared = {"snr": values, "snr_null": values, "snr_excess": values, "snr_z": values}
    found = report_difference(of_columns(**shared, old=values), of_columns(**shared, new=values))
    assert list(found.index) == ["snr"]


def test_reports_of_different_matrices_are_refused():
    one = of_columns(snr=[1.0] * 5, model="one")
    other = of_columns(names=[*NAMES[:4], "7.q_proj"], snr=[1.0] * 5, model="other")
    with pytest.raises(
        CheckpointError, match=r"one and other cannot be compared: 2 matrices are in one report only, .*4\.q_proj"
    ):
        report_difference(one, other)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("abc", "abc", 1), ("ab", "cd", 0), ("abc", "bcd", 0.5), ("a", "abcd", 0.25), ("", "", 1), ("", "a", 0)],
)
def test_overlap_is_common_over_all(one, other, expected):
    assert jaccard(set(one), set(other)) == expected


def test_random_values_have_scipys_rank_correlation():
    rng = np.random.default_rng(0)
    names = [f"{block}.q_proj" for block in range(40)]
    before, after = rng.normal(size=40).tolist(), rng.normal(size=40).tolist()
    found = report_difference(of_columns(names, snr=before), of_columns(names, snr=after)).loc["snr"]
    assert found["spearman"] == pytest.approx(spearmanr(before, after).statistic)
    changes = np.abs(np.array(after) / np.array(before) - 1)
    assert found["median_change"] == pytest.approx(np.median(changes))
    assert found["largest_change"] == pytest.approx(changes.max())
