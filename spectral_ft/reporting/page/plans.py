"""The plans: which matrix got which rank."""

from collections.abc import Sequence

import numpy as np

from spectral_ft.errors import SpectralFTError
from spectral_ft.reporting.page.arms import Arm, run_name
from spectral_ft.reporting.page.heat_maps import text_map
from spectral_ft.reporting.page.places import Place, Places
from spectral_ft.reporting.page.texts import NONE
from spectral_ft.reporting.page.views import HeatMap, Section, Table
from spectral_ft.reporting.rank_map import SIGNS, Grid, cell_text, group_letters
from spectral_ft.reporting.records import RunFolder
from spectral_ft.storage import read_json
from spectral_ft.types import AllocationPlan

COUNTS = (
    ("trainable parameters", "trainable_parameters"),
    ("of the adapter", "adapter_parameters"),
    ("of the base", "base_parameters"),
)


def plans_section(arms: Sequence[Arm], places: Places) -> tuple[Section, dict[str, tuple[Place, ...]]]:
    """The rank map of every arm.

    Args:
        arms: With their runs; a plan is shown once it is there, whatever became of the run.
        places: Of the matrices.

    Returns:
        A map an arm that adapts matrices, of its first seed, and the counts of each; and by arm's name where all
        matrices of its model stand, adapted or not.
    """
    maps, rows, notes = [], [], []
    known: dict[str, tuple[Place, ...]] = {}
    for arm in arms:
        plans, faults = _plans(arm)
        notes += faults
        if not plans:
            continue
        first, plan = plans[0]
        known[arm.name] = tuple(place for each in plan.allocations if (place := places(each.name)))
        adapted = len(plan.adapted)
        counts = [f"{getattr(plan, name):,}" for _, name in COUNTS]
        rows.append((arm.name, f"{adapted} of {len(plan.allocations)}" if adapted else NONE, *counts, _percent(plan)))
        if adapted:
            maps.append(_rank_map(f"{arm.name}: rank of each matrix", plan, places))
        if other := [run for run, each in plans[1:] if each.allocations != plan.allocations]:
            notes.append(f"{run_name(first)} is shown; {len(other)} other runs of the arm have another plan.")
    headings = ("arm", "adapted matrices", *(heading for heading, _ in COUNTS), "trainable")
    section = Section(
        id="plans",
        title="Plans",
        lead="Which matrix got which rank; a point is a frozen one." if maps else "",
        tables=(Table("counts", headings, tuple(rows)),) if rows else (),
        maps=tuple(maps),
        notes=tuple(notes),
    )
    return section, known


def _plans(arm: Arm) -> tuple[list[tuple[RunFolder, AllocationPlan]], list[str]]:
    found, faults = [], []
    for run in arm.runs:
        try:
            found.append((run, read_json(run.folder / "plan.json", AllocationPlan)))
        except FileNotFoundError:
            continue
        except (SpectralFTError, OSError) as error:
            faults.append(f"{run_name(run)}: {error}")
    return found, faults


def _rank_map(caption: str, plan: AllocationPlan, places: Places) -> HeatMap:
    letters = group_letters(plan)
    grid: Grid = {}
    for allocation in plan.allocations:
        if place := places(allocation.name):
            grid.setdefault((place[1], place[0]), []).append(allocation)
    cells: dict[Place, tuple[str, float]] = {}
    for (block, kind), members in grid.items():
        adapted = [member.rank for member in members if member.rank]
        text = " ".join(filter(None, cell_text(members, letters)))
        cells[kind, block] = (text, float(np.mean(adapted)) if adapted else 0.0)
    said = "".join(text for text, _ in cells.values())
    signs = [f"{meaning}." for sign, meaning in SIGNS.items() if sign in said]
    if letters:
        signs.insert(0, "One letter: matrices that share factors.")
    return text_map(caption, cells, scale=" ".join(signs))


def _percent(plan: AllocationPlan) -> str:
    return f"{plan.trainable_percent:.3g} %"
