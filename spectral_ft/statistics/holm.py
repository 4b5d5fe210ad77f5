"""Many differences in one table."""

from collections.abc import Sequence
from dataclasses import replace

from spectral_ft.statistics.results import Difference


def with_holm(differences: Sequence[Difference], *, tests: int | None = None) -> tuple[Difference, ...]:
    """Correct the p-values of one table, so that any false difference in it is as rare as one test promises.

    Source: Holm 1979; `statsmodels.stats.multitest.multipletests`. It holds however the tests depend on one another.
    Where a choice is shown, the i-th smallest p of the shown is multiplied by `tests` - i + 1: no less than Holm makes
    of it among all tests, where it is the i-th or a later one, so that the choice may be made by the same data.

    Args:
        differences: All that the table shows.
        tests: From which they were chosen; None: they are all.

    Returns:
        The same, with `p_holm`.
    """
    from statsmodels.stats.multitest import multipletests

    if not differences:
        return ()
    hidden = 0 if tests is None else tests - len(differences)
    corrected = multipletests([one.p for one in differences] + [1.0] * hidden, method="holm")[1][: len(differences)]
    return tuple(replace(one, p_holm=float(p)) for one, p in zip(differences, corrected, strict=True))
