"""Where each matrix stands: block and module type, out of the files of the runs or out of its name."""

import re
from collections.abc import Sequence

import pandas as pd

from spectral_ft.errors import RunError
from spectral_ft.reporting.records import RunFolder
from spectral_ft.storage import check

Place = tuple[str, int]
"""Module type and block."""

_NAME = re.compile(r".*?\.(?P<block>\d+)\.(?P<leaf>.+)")


def read_frame(run: RunFolder, name: str, *, columns: Sequence[str] | None = None) -> pd.DataFrame | None:
    """A table that a stage left.

    Args:
        run: Whose.
        name: Of the parquet file.
        columns: Those wanted, as far as they are there; None for all.

    Returns:
        The table; None where the run has no such file.

    Raises:
        RunError: If the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = run.folder / name
    check(path)
    try:
        there = set(pq.read_schema(path).names)
        table = pq.read_table(path, columns=None if columns is None else [one for one in columns if one in there])
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{path} is damaged: {error}. Remove it; the same command makes it again.") from error
    return table.to_pandas()


class Places:
    """Module name to its place, the same for all runs of a page."""

    def __init__(self, frames: Sequence[pd.DataFrame]) -> None:
        """Remember what files say.

        Args:
            frames: With columns `name`, `type` and `block`.
        """
        self._known: dict[str, Place] = {
            str(name): (str(kind), int(block))
            for frame in frames
            for name, kind, block in zip(frame["name"], frame["type"], frame["block"], strict=True)
        }

    def __call__(self, name: str) -> Place | None:
        """Where a matrix stands.

        Args:
            name: Its module path.

        Returns:
            Its place; without a file that says it, what stands before and after the first number of its path, numbers
            after that (of experts) as `*`. None where there is no number.
        """
        if name in self._known:
            return self._known[name]
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        return ".".join("*" if part.isdigit() else part for part in found["leaf"].split(".")), int(found["block"])
