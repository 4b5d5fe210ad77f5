"""Runs to a page: one file with everything in it, that asks nothing of a network."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from spectral_ft.errors import RunError
from spectral_ft.reporting.mixing import check_identities
from spectral_ft.reporting.page.answers import pair_views
from spectral_ft.reporting.page.arms import Arm, arms_of
from spectral_ft.reporting.page.axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from spectral_ft.reporting.page.costs import costs_section
from spectral_ft.reporting.page.curves import curves_section
from spectral_ft.reporting.page.drifts import drifts_section, read_drifts
from spectral_ft.reporting.page.overlaps import overlaps_section
from spectral_ft.reporting.page.overview import counts_text, overview_section
from spectral_ft.reporting.page.pairs import pairs_of
from spectral_ft.reporting.page.places import Places
from spectral_ft.reporting.page.plans import plans_section
from spectral_ft.reporting.page.reproduction import reproduction_section
from spectral_ft.reporting.page.results import results_section
from spectral_ft.reporting.page.scores import scores_of
from spectral_ft.reporting.page.settings import settings_section
from spectral_ft.reporting.page.spectra import spectra_section
from spectral_ft.reporting.page.views import Section
from spectral_ft.reporting.records import RunFolder
from spectral_ft.reporting.sweep_plan import SweepPlan
from spectral_ft.storage import write_text

TEMPLATES = Path(__file__).parent / "templates"
PAIRS = Section(
    id="items",
    title="Item by item",
    lead="Arms two by two, on the same items; p is corrected by Holm over all pairs of arms, shown or not.",
)


def write_page(runs: Sequence[RunFolder], sweep: SweepPlan | None, path: Path) -> Path:
    """Write a run or a sweep as one HTML page.

    Styles, script and drawings are inside; the page forbids itself to load or run anything else. What a run does not
    have (unfinished, failed, files missing or damaged) is left out and said.

    Args:
        runs: As `run_folders` reads them; the first arm keeps its colour when others are added behind it.
        sweep: What there should be, and the commands; None where nothing says it.
        path: The HTML file; its folder is made.

    Returns:
        The same path.

    Raises:
        RunError: If there is neither a run nor a job, or a run is there twice.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    if not runs and not (sweep and sweep.jobs):
        raise RunError(f"{path} would be a page of no run: give the folder of a run or of a sweep.")
    check_identities(runs)
    arms = _in_order(runs, sweep)
    scores = scores_of(arms)
    pairs, skipped = pairs_of(arms, scores)
    overview = overview_section(arms, sweep)
    sections = [overview, results_section(arms, scores), PAIRS, costs_section(arms, scores), *_of_files(arms, sweep)]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    shown = [section for section in sections if _has_content(section) or (section is PAIRS and (pairs or skipped))]
    text = environment.get_template("page.html.j2").render(
        title=_title(runs, sweep),
        counts=counts_text(runs, sweep),
        sections=shown,
        empty=[section for section in sections if section not in shown],
        pairs=pair_views(pairs),
        skipped=skipped,
        arms=arms,
        style=style,
        script=script,
        script_digest=_digest(script),
        frame={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
    )
    write_text(path, text)
    return path


def _of_files(arms: Sequence[Arm], sweep: SweepPlan | None) -> list[Section]:
    spectra, frames = spectra_section(arms)
    drifts, notes = read_drifts(arms)
    drifted = [frame for found in drifts.values() for _, frame in found]
    plans, places = plans_section(arms, Places([*frames, *drifted]))
    return [
        curves_section(arms),
        settings_section(arms),
        plans,
        spectra,
        drifts_section(drifts, notes, places=places),
        overlaps_section(arms),
        reproduction_section(arms, sweep),
    ]


def _in_order(runs: Sequence[RunFolder], sweep: SweepPlan | None) -> tuple[Arm, ...]:
    # A sweep's order is meant; that of folder names, which are digests, is chance.
    order = {job.run_id: number for number, job in enumerate(sweep.jobs)} if sweep else {}
    return arms_of(sorted(runs, key=lambda run: order.get(run.run_id or run.folder.name, len(order))))


def _title(runs: Sequence[RunFolder], sweep: SweepPlan | None) -> str:
    if sweep and sweep.experiment:
        return f"Sweep {sweep.experiment}"
    if len(runs) == 1 and not sweep:
        return f"Run {runs[0].run_id or runs[0].folder.name}: {runs[0].arm}"
    return f"{len(runs)} runs of {len({run.arm for run in runs})} arms"


def _has_content(section: Section) -> bool:
    return any((
        section.charts,
        section.intervals,
        section.tables,
        section.maps,
        section.folded,
        section.commands,
        section.notes,
    ))


def _digest(script: str) -> str:
    # Only this very script may run, whatever a response holds.
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
