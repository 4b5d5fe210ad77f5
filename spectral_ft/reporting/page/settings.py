"""What was run: the options in which arms differ, and those that they share."""

from collections.abc import Sequence

from spectral_ft.reporting.arms import seedless, varying
from spectral_ft.reporting.page.arms import Arm
from spectral_ft.reporting.page.texts import NONE, joined, option_text
from spectral_ft.reporting.page.views import Section, Table


def settings_section(arms: Sequence[Arm]) -> Section:
    """Configuration differences.

    Args:
        arms: With their runs, finished or not.

    Returns:
        A table of the options that differ, with a column an arm, and one of those that do not, to be opened.
    """
    known = [(arm, [seedless(run.config) for run in arm.runs if run.config]) for arm in arms]
    known = [(arm, flats) for arm, flats in known if flats]
    every = [flat for _, flats in known for flat in flats]
    apart = varying(every)
    rows = [
        (
            option,
            *(joined([option_text(flat[option]) if option in flat else NONE for flat in flats]) for _, flats in known),
        )
        for option in apart
    ]
    tables = (
        Table("options that differ", ("option", *(arm.name for arm, _ in known)), tuple(rows), words=len(known) + 1),
    )
    shared = [
        (option, option_text(value)) for option, value in (every[0] if every else {}).items() if option not in apart
    ]
    lead = f"{len(apart)} options differ, {len(shared)} are the same; the seed, folders and tracking are left out."
    return Section(
        id="settings",
        title="What was run",
        lead=lead if every else "",
        tables=tables if rows else (),
        folded=(Table("options that all have", ("option", "value"), tuple(shared), words=2),) if shared else (),
    )
