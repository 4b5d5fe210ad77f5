"""Many differences in one table."""

from collections.abc import Sequence
from dataclasses import replace

from spectral_ft.statistics.results import Difference


def with_holm(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    """Correct the p-values of one table, so that any false difference in it is as rare as one test promises.

    Source: Holm 1979; `statsmodels.stats.multitest.multipletests`. It holds however the tests depend on one another.

    Args:
        differences: All that the table shows.

    Returns:
        The same, with `p_holm`.
    """
    from statsmodels.stats.multitest import multipletests

    if not differences:
        return ()
    corrected = multipletests([one.p for one in differences], method="holm")[1]
    return tuple(replace(one, p_holm=float(p)) for one, p in zip(differences, corrected, strict=True))
