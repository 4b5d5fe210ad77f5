"""Published numbers: `experiments/*/published.csv`, a row an arm and task, with its source."""

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from spectral_ft.configuration import PUBLISHED
from spectral_ft.errors import DataError


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PublishedScore:
    """One number of a published table: a row of the file."""

    arm: Annotated[str, Field(min_length=1)]
    """What `conf/arm` calls it."""
    task: Annotated[str, Field(min_length=1)]
    value: Annotated[float, Field(ge=0, le=100)]
    """Percent of right answers, as it is printed."""
    n: Annotated[int, Field(ge=1)]
    """Test items."""
    params_percent: Annotated[float, Field(ge=0, le=100)]
    """Trainable, of all parameters, as it is printed."""
    source: Annotated[str, Field(min_length=1)]
    """Who published it, and in which table."""


def published_scores(arms: Iterable[str]) -> list[PublishedScore]:
    """The published numbers of some arms.

    Args:
        arms: What `conf/arm` calls them.

    Returns:
        In the order of the files; none for arms that nobody published.

    Raises:
        DataError: If a file is not one of published numbers.
    """
    wanted = set(arms)
    return [
        score
        for path in sorted(PUBLISHED.glob("*/published.csv"))
        for score in read_published(path)
        if score.arm in wanted
    ]


def read_published(path: Path) -> list[PublishedScore]:
    """All numbers of a file.

    Args:
        path: CSV with the columns of `PublishedScore`.

    Returns:
        Its rows.

    Raises:
        DataError: If a column is missing or unknown, a cell is no such value, or an arm has a task twice.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        scores = TypeAdapter(list[PublishedScore]).validate_python(rows)
    except ValidationError as error:
        first = error.errors()[0]
        place, *column = first["loc"]
        where = f"row {int(place) + 1}, {'.'.join(map(str, column))}"
        raise DataError(f"{path} is no table of published numbers: {where}: {first['msg']}.") from error
    if twice := [place for place, count in Counter((score.arm, score.task) for score in scores).items() if count > 1]:
        raise DataError(f"{path} has {twice[0][1]} of {twice[0][0]} twice.")
    return scores
