"""Oracle: the colours of the pixels, where a figure must or must not have them."""

import math
import warnings

import numpy as np
import pytest
from matplotlib import colormaps, image
from matplotlib.colors import to_rgb

from spectral_ft.reporting import drawing
from spectral_ft.reporting import spectral_figures as figures
from spectral_ft.spectral.decomposition import decompose
from spectral_ft.spectral.metrics import MetricOptions, metric_columns
from spectral_ft.types import MatrixShape, MatrixSpectrum, SpectralReport
from tests.oracles import gaussian, matrix


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(drawing, "DPI", 60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of what it cannot draw
        yield


def pixels(path):
    """RGB of a PNG that is not blank."""
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    found = image.imread(path)[..., :3]
    assert len(np.unique(found.reshape(-1, 3), axis=0)) > 20
    assert [other.name for other in path.parent.iterdir() if other.name.endswith(".part")] == []
    return found


def share_of(colour, found, *, within=0.01):
    return float((np.abs(found - np.array(to_rgb(colour))).max(axis=-1) < within).mean())


def of_values(values, column="snr"):
    spectra = tuple(
        MatrixSpectrum(
            MatrixShape(f"model.layers.{name}", name.split(".")[-1], "reads", int(name.split(".")[0]), None),
            None,
            {column: value},
        )
        for name, value in values.items()
    )
    return SpectralReport(model="m", fingerprint="", settings={}, matrices=spectra)


def heat_map(folder, values):
    figures.draw_heat_map(folder / "f.png", of_values(values), "snr")
    return pixels(folder / "f.png")


def grid(rows, cols, value):
    return {f"{block}.{kind}": value(block, at) for at, kind in enumerate("qkvo"[:rows]) for block in range(cols)}


LOW, HIGH = colormaps["viridis"](0.0)[:3], colormaps["viridis"](1.0)[:3]


def test_the_lowest_and_the_highest_value_have_the_ends_of_the_colours(tmp_path):
    found = heat_map(tmp_path, grid(2, 2, lambda block, at: 1.0 + block + 2 * at))
    assert share_of(LOW, found) > 0.03 and share_of(HIGH, found) > 0.03
    assert share_of(figures.UNDEFINED, found) < 0.01


def test_undefined_values_are_grey(tmp_path):
    found = heat_map(tmp_path, grid(2, 2, lambda block, at: None if block else 1.0 + at))
    assert share_of(figures.UNDEFINED, found) > 0.2
    assert share_of(LOW, found) > 0.03


def test_a_block_without_a_type_is_grey(tmp_path):
    found = heat_map(tmp_path, {"0.q": 1.0, "0.k": 2.0, "1.q": 3.0})
    assert share_of(figures.UNDEFINED, found) > 0.1


def test_an_infinite_value_has_a_dot_and_moves_no_colour(tmp_path):
    (tmp_path / "plain").mkdir()
    plain = heat_map(tmp_path / "plain", grid(2, 3, lambda block, at: 1.0 + block + at))
    (tmp_path / "infinite").mkdir()
    values = grid(2, 3, lambda block, at: 1.0 + block + at)
    found = heat_map(tmp_path / "infinite", values | {"1.q": math.inf})
    assert share_of(figures.SIGNAL, found) > share_of(figures.SIGNAL, plain) == 0
    assert share_of(LOW, found) == pytest.approx(share_of(LOW, plain), abs=0.01)


@pytest.mark.parametrize("value", [None, math.inf])
def test_a_column_without_a_finite_value_is_drawn_all_the_same(tmp_path, value):
    figures.draw_heat_map(tmp_path / "f.png", of_values(grid(2, 2, lambda block, at: value)), "snr")
    assert share_of(figures.UNDEFINED, pixels(tmp_path / "f.png")) > 0.3


@pytest.mark.parametrize("value", [0.0, -2.0, 5.0])
def test_values_that_do_not_vary_are_drawn(tmp_path, value):
    heat_map(tmp_path, grid(2, 2, lambda block, at: value))


def test_experts_of_a_block_are_averaged(tmp_path):
    # Beside each other the two experts of block 0 have the mean of blocks 1 and 2.
    values = {"0.experts.0.q": 1.0, "0.experts.1.q": 3.0, "1.experts.0.q": 1.0, "2.experts.0.q": 3.0}
    found = heat_map(tmp_path, values)
    middle = colormaps["viridis"](0.5)[:3]
    assert share_of(middle, found) > 0.03
    assert share_of(middle, found) == pytest.approx(share_of(LOW, found), rel=0.5)


def test_many_blocks_are_drawn_with_few_numbers(tmp_path):
    heat_map(tmp_path, grid(4, 40, lambda block, at: 10.0 ** (block % 7) * (at + 1)))


def analysed(*shapes):
    found = []
    for at, shape in enumerate(shapes):
        weights = gaussian(*shape, seed=at)
        weights[0] += 3
        decomposition = decompose(weights)
        columns, reasons = metric_columns(decomposition, shape, MetricOptions())
        found.append(MatrixSpectrum(matrix(f"{at}.q", shape), decomposition.singular_values, columns, reasons))
    return found


def noise_fit(spectrum):
    x = np.linspace(0.1, 2, 50)
    unit = spectrum.columns["noise_std"] * math.sqrt(max(spectrum.matrix.sides))
    return figures.NoiseFit(unit, math.sqrt(spectrum.columns["bulk_edge"]) / unit, x, 0.5 * np.ones(50))


def test_a_spectrum_shows_values_law_edge_and_spikes(tmp_path):
    (spectrum,) = analysed((60, 90))
    figures.draw_spectra(tmp_path / "f.png", [(spectrum, noise_fit(spectrum))], title="t")
    found = pixels(tmp_path / "f.png")
    for colour in (figures.BULK, figures.LAW, figures.SIGNAL):
        assert share_of(colour, found, within=0.25) > 0  # thin lines are mixed with what is beside them


def test_a_spectrum_without_a_fit_shows_the_values_alone(tmp_path):
    figures.draw_spectra(tmp_path / "f.png", [(analysed((60, 90))[0], None)], title="t")
    found = pixels(tmp_path / "f.png")
    assert share_of(figures.BULK, found) > 0.01
    assert share_of(figures.SIGNAL, found, within=0.25) == 0


def test_tails_show_the_eigenvalues_and_the_fit(tmp_path):
    figures.draw_tails(tmp_path / "f.png", analysed((80, 90)), title="t")
    found = pixels(tmp_path / "f.png")
    assert share_of(figures.BULK, found, within=0.25) > 0 and share_of(figures.LAW, found, within=0.25) > 0


@pytest.mark.parametrize("count", [1, 3, 5])
def test_any_number_of_panels_is_drawn(tmp_path, count):
    spectra = analysed(*[(20, 30)] * count)
    figures.draw_spectra(tmp_path / "s.png", [(spectrum, None) for spectrum in spectra], title="t")
    figures.draw_tails(tmp_path / "t.png", spectra, title="t")
    sizes = [pixels(tmp_path / name).shape for name in ("s.png", "t.png")]
    assert sizes[0] == sizes[1]


def zeros():
    columns, reasons = metric_columns(decompose(np.zeros((4, 6))), (4, 6), MetricOptions())
    return MatrixSpectrum(matrix("0.q", (4, 6)), np.zeros(4), columns, reasons)


def test_a_matrix_of_zeros_is_drawn_as_a_spectrum(tmp_path):
    figures.draw_spectra(tmp_path / "f.png", [(zeros(), None)], title="t")
    pixels(tmp_path / "f.png")


def test_a_matrix_of_zeros_is_drawn_as_a_tail(tmp_path):
    figures.draw_tails(tmp_path / "f.png", [zeros()], title="t")
    pixels(tmp_path / "f.png")


def beside_null(folder, pairs):
    spectra = tuple(
        MatrixSpectrum(matrix(f"{at}.q"), None, {"snr": value, "snr_null": null})
        for at, (value, null) in enumerate(pairs)
    )
    path = folder / "f.png"
    figures.draw_beside_null(path, SpectralReport("m", "", {}, spectra), "snr")
    return pixels(path)


@pytest.mark.parametrize(
    "pairs",
    [[(1.0, 2.0), (3.0, 2.5)], [(1.0, -2.0), (0.0, 2.5)], [(1.0, 2.0), (None, 3.0)], [(2.0, 2.0)], [(0.0, 0.0)]],
)
def test_a_metric_is_drawn_beside_its_null(tmp_path, pairs):
    beside_null(tmp_path, pairs)


def test_a_metric_that_is_undefined_everywhere_says_so(tmp_path):
    assert share_of(figures.LAW, beside_null(tmp_path, [(None, 2.0), (1.0, None)])) == 0
