"""Oracle: the colour and the text of every cell, worked out from its number, and the pixels of the file."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps, image
from matplotlib.colors import to_rgb

from spectral_ft.reporting.drift_figure import FROZEN, NULL, draw_drift
from spectral_ft.types import MatrixShape
from tests.oracles import matrix

MODEL = [matrix(f"{block}.{kind}") for block in range(3) for kind in ("q", "down")]


pytestmark = pytest.mark.usefixtures("small_drawings")


def moved(values, matrices=MODEL):
    """Matrix number to (relative norm, angle, intruders)."""
    rows = [
        {
            "name": matrices[number].name,
            "type": matrices[number].type,
            "block": matrices[number].block,
            "relative_frobenius": size,
            "angle_left": angle,
            "intruders_left": count,
        }
        for number, (size, angle, count) in values.items()
    ]
    return pd.DataFrame(rows)


def cells(axes):
    """(type, block) to RGB."""
    (picture,) = axes.get_images()
    kinds = [label.get_text() for label in axes.get_yticklabels()]
    return {
        (kind, at): tuple(pixel)
        for kind, row in zip(kinds, picture.get_array(), strict=True)
        for at, pixel in enumerate(row)
    }


def texts(axes):
    """(column, row) to text."""
    return {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}


def test_every_panel_shows_its_column(tmp_path, seen):
    drift = moved({0: (0.2, np.pi / 2, 0), 3: (0.8, np.pi / 4, 3), 4: (0.4, 0.0, 1)})
    path = tmp_path / "figures" / "drift.png"
    draw_drift(path, drift, MODEL, title="t")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and [each.name for each in path.parent.iterdir()] == [
        "drift.png"
    ]
    sizes, angles, intruders = seen
    assert texts(sizes) == {(0, 0): "0.2", (1, 1): "0.8", (2, 0): "0.4"}
    assert texts(angles) == {(0, 0): "90", (1, 1): "45", (2, 0): "0"}
    assert texts(intruders) == {(0, 0): "0", (1, 1): "3", (2, 0): "1"}
    for axes, values in ((sizes, (0.25, 1.0, 0.5)), (angles, (1.0, 0.5, 0.0)), (intruders, (0.0, 1.0, 1 / 3))):
        found = cells(axes)
        for place, value in zip((("q", 0), ("down", 1), ("q", 2)), values, strict=True):
            assert found.pop(place) == pytest.approx(colormaps["viridis"](value)[:3], abs=0.01)
        assert set(found.values()) == {to_rgb(FROZEN)}
    pixels = image.imread(path)[..., :3]
    assert (np.abs(pixels - np.array(to_rgb(FROZEN))).max(axis=-1) < 0.01).mean() > 0.1


def test_what_means_nothing_is_dark_and_what_is_not_there_white(tmp_path, seen):
    matrices = [matrix("0.q"), matrix("1.down")]
    draw_drift(tmp_path / "d.png", moved({0: (None, None, None)}, matrices), matrices, title="t")
    for axes in seen:
        assert cells(axes) == {
            ("q", 0): pytest.approx(to_rgb(NULL)),
            ("q", 1): (1, 1, 1),
            ("down", 0): (1, 1, 1),
            ("down", 1): pytest.approx(to_rgb(FROZEN)),
        }
        assert not axes.texts


def test_experts_have_their_mean(tmp_path, seen):
    matrices = [MatrixShape(f"model.layers.0.experts.{n}.w", "experts.w", "reads", 0, (8, 8)) for n in range(3)]
    draw_drift(tmp_path / "d.png", moved({0: (0.2, 0, 1), 2: (0.4, 0, 2)}, matrices), matrices, title="t")
    assert [texts(axes)[0, 0] for axes in seen] == ["0.3", "0", "1.5"]


def test_many_blocks_have_few_numbers(tmp_path, seen):
    matrices = [matrix(f"{block}.q") for block in range(64)]
    draw_drift(tmp_path / "d.png", moved({5: (0.1, 0.2, 0)}, matrices), matrices, title="t")
    assert [label.get_text() for label in seen[0].get_xticklabels()] == [str(block) for block in range(0, 64, 4)]


def test_what_the_files_have_under_another_name_is_drawn_too(tmp_path, seen):
    joined = MatrixShape("model.layers.3.joined", "joined", "reads", 3, (8, 8))
    draw_drift(tmp_path / "d.png", moved({6: (0.1, 0.2, 0)}, [*MODEL, joined]), MODEL, title="t")
    found = cells(seen[0])
    assert found["joined", 3] == pytest.approx(colormaps["viridis"](1.0)[:3], abs=0.01)
    assert found["q", 2] == pytest.approx(to_rgb(FROZEN)) and found["q", 3] == found["joined", 0] == (1, 1, 1)
