"""How far metrics move between two reports of the same matrices."""

import numpy as np
import pandas as pd

from spectral_ft.errors import CheckpointError
from spectral_ft.types import SpectralReport

DERIVED = ("_null", "_excess", "_z")
"""Ends of columns that compare a metric with its null; they are left out."""


def report_difference(before: SpectralReport, after: SpectralReport) -> pd.DataFrame:
    """Rank correlation and relative change of every column that both reports have.

    Args:
        before: One report.
        after: Another, of the same matrices.

    Returns:
        Indexed by column: `matrices` where it is defined in both, `spearman` over them,
        `median_change` and `largest_change` of `|after / before - 1|`; NaN where undefined.

    Raises:
        CheckpointError: If the reports are of different matrices.
    """
    one, other = before.frame().set_index("name"), after.frame().set_index("name")
    if missing := sorted(set(one.index) ^ set(other.index)):
        raise CheckpointError(
            f"{before.model} and {after.model} cannot be compared: {len(missing)} matrices are in one report only, "
            f"the first of which is {missing[0]}."
        )
    rows = {}
    common = [name for name in before.matrices[0].columns if name in after.matrices[0].columns]
    for column in (name for name in common if not name.endswith(DERIVED)):
        pair = pd.DataFrame({"before": one[column], "after": other[column].reindex(one.index)}).astype(float)
        pair = pair.replace([np.inf, -np.inf], np.nan).dropna()
        change = (pair["after"] / pair["before"] - 1).abs()[pair["before"] != 0]
        varies = len(pair) > 1 and (pair.nunique() > 1).all()
        rows[column] = {
            "matrices": len(pair),
            "spearman": pair["before"].rank().corr(pair["after"].rank()) if varies else np.nan,
            "median_change": change.median(),
            "largest_change": change.max(),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def jaccard(one: set[str], other: set[str]) -> float:
    """Overlap of two selections.

    Args:
        one: Names.
        other: Names.

    Returns:
        Common names over all names; 1 where both are empty.
    """
    return len(one & other) / len(one | other) if one | other else 1.0
