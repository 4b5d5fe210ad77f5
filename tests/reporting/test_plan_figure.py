"""Oracle: the colour and the text of every cell, worked out from its rank, and the pixels of the file."""

import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib import colormaps, image
from matplotlib.colors import to_rgb

from spectral_ft.errors import PlanError
from spectral_ft.reporting.plan_figure import FROZEN, draw_plan
from spectral_ft.types import MatrixShape
from tests.oracles import matrix
from tests.reporting.plans import model, plan

pytestmark = pytest.mark.usefixtures("small_drawings")


def drawn(folder, matrices, ranks, **options):
    """RGB of the PNG."""
    path = folder / "figures" / "plan.png"
    draw_plan(path, plan(matrices, ranks, **options), matrices, title="t")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [other.name for other in path.parent.iterdir()] == ["plan.png"]
    return image.imread(path)[..., :3]


def share_of(colour, found):
    return float((np.abs(found - np.array(to_rgb(colour))).max(axis=-1) < 0.01).mean())


def scaled(rank, low, high):
    """The colour of a rank between two powers of two."""
    return colormaps["viridis"](math.log2(rank / low) / math.log2(high / low))[:3]


def cell_colours(axes):
    """(type, block) to RGB, as given to the image."""
    (picture,) = axes.get_images()
    kinds = [label.get_text() for label in axes.get_yticklabels()]
    rows = zip(kinds, picture.get_array(), strict=True)
    return {(kind, at): tuple(pixel) for kind, row in rows for at, pixel in enumerate(row)}


def test_every_cell_has_the_colour_of_its_rank(tmp_path, seen):
    matrices = model(3, ("q", "k"))
    drawn(tmp_path, matrices, [4, 8, 0, 16, 64, 6])
    found = cell_colours(seen[0])
    ranks = {("q", 0): 4, ("k", 0): 8, ("k", 1): 16, ("q", 2): 64, ("k", 2): 6}
    assert found.pop(("q", 1)) == pytest.approx(to_rgb(FROZEN))
    assert set(found) == set(ranks)
    for place, rank in ranks.items():
        assert found[place] == pytest.approx(scaled(rank, 4, 64), abs=0.01)


def test_the_file_shows_the_ranks_and_the_frozen(tmp_path):
    found = drawn(tmp_path, model(2, ("q", "k")), [4, 0, 64, 0])
    assert share_of(FROZEN, found) > 0.2
    assert share_of(scaled(4, 4, 64), found) > 0.1 and share_of(scaled(64, 4, 64), found) > 0.1
    assert share_of(scaled(16, 4, 64), found) < 0.01  # only in the bar


def test_the_scale_ends_at_powers_of_two(tmp_path, seen):
    drawn(tmp_path, model(2, ("q",)), [5, 40])
    (bar,) = [axes for axes in seen[0].figure.axes if axes is not seen[0]]
    assert bar.get_ylim() == pytest.approx((4, 64))
    assert [label.get_text() for label in bar.get_yticklabels()] == ["4", "8", "16", "32", "64"]


@pytest.mark.parametrize("rank", [1, 5, 8])
def test_a_rank_that_does_not_vary_is_drawn(tmp_path, seen, rank):
    found = drawn(tmp_path, model(2, ("q", "k")), [rank] * 4)
    low = 2 ** math.floor(math.log2(rank))
    assert set(cell_colours(seen[0]).values()) == {tuple(scaled(rank, low, 2 * low))}
    assert share_of(FROZEN, found) == 0


def test_a_plan_that_adapts_nothing_is_grey_without_a_scale(tmp_path, seen):
    found = drawn(tmp_path, model(2, ("q", "k")), [0] * 4)
    assert share_of(FROZEN, found) > 0.4
    assert len(seen[0].figure.axes) == 1
    assert not seen[0].texts


def test_what_a_block_does_not_have_is_white(tmp_path, seen):
    drawn(tmp_path, [matrix("0.q"), matrix("1.k")], [8, 0])
    found = cell_colours(seen[0])
    assert found["q", 1] == found["k", 0] == (1, 1, 1)
    assert found["k", 1] == pytest.approx(to_rgb(FROZEN))


def said(axes):
    """(column, row) to text."""
    return {(int(text.get_position()[0]), int(text.get_position()[1])): text.get_text() for text in axes.texts}


def test_cells_say_their_rank_and_the_letter_of_their_group(tmp_path, seen):
    matrices = model(3, ("q", "k"))
    drawn(tmp_path, matrices, [8, 4, 8, 0, 16, 4], groups=["g", "h", "g", None, None, "h"], held={5})
    assert said(seen[0]) == {(0, 0): "8\na", (0, 1): "4\nb", (1, 0): "8\na", (2, 0): "16", (2, 1): "(4)\nb"}
    assert seen[0].get_xlabel().splitlines() == [
        "block",
        "one letter: matrices that share factors",
        "(8): the adapter stays as it is, untrained",
    ]


def test_experts_have_the_mean_of_the_adapted_ones(tmp_path, seen):
    matrices = [matrix("0.q"), matrix("1.q")]
    matrices += [MatrixShape(f"model.layers.0.experts.{n}.w", "experts.w", "reads", 0, (8, 8)) for n in range(3)]
    drawn(tmp_path, matrices, [2, 32, 0, 4, 12])
    assert cell_colours(seen[0])["experts.w", 0] == pytest.approx(scaled(8, 2, 32), abs=0.01)
    assert said(seen[0])[0, 1] == "0-12"
    assert seen[0].get_xlabel() == "block\n0-8: lowest and highest rank of several matrices, 0 is frozen"


def test_letters_can_be_told_from_their_colour(tmp_path, seen):
    matrices = model(7, ("q",))
    drawn(tmp_path, matrices, [1, 2, 4, 8, 16, 32, 64])
    for text, pixel in zip(seen[0].texts, cell_colours(seen[0]).values(), strict=True):
        weights = np.array([0.299, 0.587, 0.114])
        assert abs(np.array(to_rgb(text.get_color())) @ weights - np.array(pixel) @ weights) >= 0.45


@pytest.mark.parametrize(
    ("blocks", "kinds", "ranks"), [(32, 7, [128]), (40, 2, [128]), (1, 1, [8]), (4, 20, [8]), (16, 1, [1024, 2048])]
)
def test_texts_stay_in_their_cells(tmp_path, seen, blocks, kinds, ranks):
    matrices = model(blocks, [f"type{kind}_proj" for kind in range(kinds)]) * len(ranks)
    matrices = [replace(shape, name=f"{shape.name}.{at}") for at, shape in enumerate(matrices)]
    each = [rank for rank in ranks for _ in range(blocks * kinds)]
    drawn(tmp_path, matrices, each, groups=[f"g{at}" for at in range(len(matrices))])
    axes = seen[0]
    axes.figure.draw_without_rendering()  # at its own resolution, not the file's
    (left, low), (right, high) = axes.transData.transform([(0, 0), (1, -1)])
    for text in axes.texts:
        box = text.get_window_extent()
        assert box.width < right - left
        assert box.height < high - low


def test_many_blocks_have_few_numbers(tmp_path, seen):
    drawn(tmp_path, model(64, ("q",)), [8] * 64)
    assert [label.get_text() for label in seen[0].get_xticklabels()] == [str(block) for block in range(0, 64, 4)]


def test_a_plan_for_another_model_is_refused_and_leaves_no_file(tmp_path):
    matrices = model(2, ("q",))
    with pytest.raises(PlanError, match=r"names 1 matrices that this model of 1 does not have, .*model\.layers\.1\.q"):
        draw_plan(tmp_path / "plan.png", plan(matrices, [1, 2]), matrices[:1], title="t")
    assert list(tmp_path.iterdir()) == []
