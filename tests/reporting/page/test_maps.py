"""Heat maps of spectra, plans and drift; oracle: typed values, means and medians worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.reporting.page.drifts import drifts_section, read_drifts
from spectral_ft.reporting.page.heat_maps import STEPS, heat_map
from spectral_ft.reporting.page.places import Places
from spectral_ft.reporting.page.plans import plans_section
from spectral_ft.reporting.page.spectra import spectra_section
from spectral_ft.storage import read_json, write_json
from spectral_ft.types import AllocationPlan, MatrixAllocation
from tests.oracles import law
from tests.reporting.page.folders import MATRICES, arms_in, moved, write_full

RIGHT = {"aqua": {"tuned": [1, 0]}}


def cells(drawn):
    return {
        (kind, block): (cell.text, cell.step)
        for kind, row in drawn.rows
        for block, cell in zip(drawn.blocks, row, strict=True)
    }


@law
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20))
def test_larger_is_never_fainter_and_the_ends_are_used(values):
    drawn = heat_map("x", [(("q", n), value) for n, value in enumerate(values)], places=())
    steps = [cell.step for cell in drawn.rows[0][1]]
    order = np.argsort(values, kind="stable")
    assert [steps[n] for n in order] == sorted(steps) and all(0 <= step < STEPS for step in steps)
    if min(values) < max(values):
        assert min(steps) == 0 and max(steps) == STEPS - 1


def test_cells_say_their_mean_or_why_not():
    values = [(("q", 0), 1.0), (("q", 0), 3.0), (("q", 2), float("nan")), (("k", 1), 8.0)]
    drawn = heat_map("x", values, places=[("k", 0), ("q", 1)])
    assert drawn.blocks == (0, 1, 2) and [kind for kind, _ in drawn.rows] == ["k", "q"]
    assert cells(drawn) == {
        ("k", 0): (".", None),
        ("k", 1): ("8", STEPS - 1),
        ("k", 2): ("", None),
        ("q", 0): ("2", 0),
        ("q", 1): (".", None),
        ("q", 2): ("?", None),
    }
    assert drawn.scale == "From 2 (faint) to 8 (strong)."
    assert heat_map("x", values[:1], places=()).scale == "All 1."


def test_far_apart_values_are_coloured_by_their_ratios():
    drawn = heat_map("x", [(("q", n), 10.0**n) for n in range(3)], places=())
    assert "logarithmic" in drawn.scale and cells(drawn)["q", 1][1] == STEPS // 2


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.layers.3.self_attn.q_proj", ("self_attn.q_proj", 3)),
        ("transformer.h.11.mlp.experts.4.w1", ("mlp.experts.*.w1", 11)),
        ("model.norm", None),
        (MATRICES[3].name, ("known", 1)),
    ],
)
def test_places_come_from_files_or_from_names(name, place):
    import pandas as pd

    assert Places([pd.DataFrame({"name": [MATRICES[3].name], "type": ["known"], "block": [1]})])(name) == place


def test_spectra_are_shown_once_a_checkpoint(tmp_path):
    for seed in (0, 1):
        write_full(tmp_path / f"{seed}", "one", RIGHT, seed=seed)
    section, frames = spectra_section(arms_in(tmp_path))
    (drawn,) = section.maps
    assert drawn.caption == "signal-to-noise ratio" and len(frames) == 1
    assert {place: text for place, (text, _) in cells(drawn).items()} == {
        ("q", 0): "0.5",
        ("down", 0): "1.5",
        ("q", 1): "2.5",
        ("down", 1): "3.5",
    }


def test_plans_show_every_rank(tmp_path):
    one = write_full(tmp_path / "0", "one", RIGHT, ranks=(4, 0, 0, 8))
    write_full(tmp_path / "1", "one", RIGHT, seed=1, ranks=(0, 4, 0, 8))
    arms = arms_in(tmp_path)
    _, frames = spectra_section(arms)
    section, known = plans_section(arms, Places(frames))
    (drawn,) = section.maps
    assert cells(drawn) == {
        ("q", 0): ("4", 0),
        ("down", 0): (".", None),
        ("q", 1): (".", None),
        ("down", 1): ("8", STEPS - 1),
    }
    assert set(known["one"]) == set(cells(drawn))
    assert section.notes == ("one, seed 0 is shown; 1 other runs of the arm have another plan.",)
    assert section.tables[0].rows == (("one", "2 of 4", "100", "100", "9,900", "1 %"),)
    plan = read_json(one / "plan.json", AllocationPlan)
    shared = [MatrixAllocation(a.name, 4, 8.0, 1.0, "group one", "A") for a in plan.allocations]
    write_json(one / "plan.json", AllocationPlan(tuple(shared), 1, 1, 9))
    section, _ = plans_section(arms, Places(frames))
    assert cells(section.maps[0])["q", 1][0] == "4 a" and "share factors" in section.maps[0].scale


def test_drift_has_its_medians_and_maps(tmp_path):
    for seed in (0, 1):
        write_full(tmp_path / f"{seed}", "one", RIGHT, seed=seed, ranks=(4, 0, 2, 8))
    write_full(tmp_path / "none", "other", RIGHT, drift=False)
    arms = arms_in(tmp_path)
    _, frames = spectra_section(arms)
    section = drifts_section(*read_drifts(arms), places=plans_section(arms, Places(frames))[1])
    assert section.tables[0].rows == (("one", "3", "0.4", "45", "22.5", "0.25", "3", "2"),)
    size, angle, intruders = section.maps
    assert {place: text for place, (text, _) in cells(size).items()} == {
        ("q", 0): "0.4",
        ("down", 0): ".",
        ("q", 1): "0.2",
        ("down", 1): "0.8",
    }
    assert cells(angle)["q", 0][0] == "45" and cells(intruders)["down", 1][0] == "1"
    assert len(moved((4, 0, 2, 8))) == 3
