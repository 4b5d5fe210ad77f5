"""Oracle: medians by hand, looked for in the text."""

import numpy as np
import pandas as pd

from spectral_ft.reporting.report_difference import report_difference
from spectral_ft.reporting.spectrum_table import difference_table, spectrum_table
from spectral_ft.spectral.decomposition import decompose
from spectral_ft.spectral.metrics import COLUMNS, MetricOptions, metric_columns
from spectral_ft.types import MatrixShape, MatrixSpectrum, SpectralReport
from tests.oracles import matrix, report


def analysed(values):
    """A report on matrices of these names and singular values."""
    found = []
    for name, s in values.items():
        shape = (len(s), 2 * len(s))
        weights = np.zeros(shape)
        weights[:, : len(s)] = np.diag(s)
        decomposition = decompose(weights)
        columns, reasons = metric_columns(decomposition, shape, MetricOptions())
        found.append(MatrixSpectrum(matrix(name, shape), decomposition.singular_values, columns, reasons))
    return SpectralReport(model="org/name", fingerprint="f", settings={}, matrices=tuple(found))


def cells(line):
    return [cell.strip() for cell in line.strip("│┃ ").replace("┃", "│").split("│")]


def line_with(word, text):
    return next(line for line in text.splitlines() if word in line)


def test_medians_are_by_module_type():
    values = {"0.q": [3.0, 1.0], "1.q": [5.0, 1.0], "2.q": [64.0, 1.0], "0.v": [4.0, 1.0, 1.0]}
    text = spectrum_table(analysed(values))
    assert "org/name: medians over 4 matrices by module type" in text
    at = cells(line_with("stable_rank", text)).index("stable_rank")
    # sum of squares over the largest: 10/9, 26/25 and 4097/4096; 18/16
    for kind, count, shape, median in (("q", "3", "2 x 4", "1.04"), ("v", "1", "3 x 6", "1.125")):
        row = cells(line_with(shape, text))
        assert (row[0], row[1], row[at]) == (kind, count, median)


def test_a_metric_without_a_meaning_for_any_matrix_is_a_dash():
    text = spectrum_table(analysed({"0.q": [2.0, 1.0]}))
    at = cells(line_with("alpha_hill", text)).index("alpha_hill")
    assert cells(line_with("2 x 4", text))[at] == "-"


def test_a_matrix_with_a_fault_is_counted_and_not_averaged():
    whole = analysed({"0.q": [3.0, 1.0], "1.q": [5.0, 1.0]})
    broken = MatrixSpectrum(matrix("2.q", (2, 4)), None, dict.fromkeys(COLUMNS), {}, fault="2.q is damaged")
    text = spectrum_table(SpectralReport("m", "f", {}, (*whole.matrices, broken)))
    at = cells(line_with("stable_rank", text)).index("stable_rank")
    row = cells(line_with("2 x 4", text))
    assert (row[1], row[at]) == ("3", "1.076")


def test_a_scan_has_no_shapes():
    spectra = tuple(
        MatrixSpectrum(MatrixShape(f"m.{block}.q", "q", "unknown", block, None), None, {"snr": value})
        for block, value in enumerate([1.0, 3.0, 8.0])
    )
    row = cells(line_with("│ q ", spectrum_table(SpectralReport("m", "", {}, spectra))))
    assert row == ["q", "3", "-", "3"]


def test_types_of_several_shapes_list_them():
    one, other = report({"0.q": 1.0}, shape=(4, 6)), report({"1.q": 2.0}, shape=(8, 6))
    text = spectrum_table(SpectralReport("m", "", {}, one.matrices + other.matrices))
    assert cells(line_with("4 x 6", text))[2] == "4 x 6 8 x 6"


def test_drift_is_shown_in_percent():
    before = report({"0.q": 1.0, "1.q": 2.0, "2.q": 3.0})
    after = report({"0.q": 1.1, "1.q": 4.0, "2.q": 3.0})
    text = difference_table(
        report_difference(before, after), before="one", after="two", selected_by="snr, half", jaccard=1 / 3
    )
    assert "from one to two" in text
    assert cells(line_with("│ snr ", text)) == ["snr", "3", "0.5000", "10.00 %", "100.00 %"]
    assert "selected by snr, half: Jaccard 0.333 between the two selections" in text


def test_what_has_no_drift_is_a_dash():
    moved = pd.DataFrame({"matrices": [0], "spearman": [np.nan], "median_change": [np.nan], "largest_change": [np.nan]})
    text = difference_table(moved.set_axis(["snr"]), before="one", after="two", selected_by="snr", jaccard=1.0)
    assert cells(line_with("│ snr ", text)) == ["snr", "0", "-", "-", "-"]
