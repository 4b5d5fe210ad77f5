"""The options of the drift: what is said of a matrix and of what training made of it."""

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class NoDrift:
    """How far the weights were moved is not measured."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class DriftSettings:
    """How far the weights were moved, and by which numbers."""

    top: Annotated[int, Field(ge=1)]
    """k: singular vectors that span a top subspace, and that are looked at for intruders."""
    threshold: Annotated[float, Field(gt=0, le=1)]
    """Absolute cosine below which a singular vector is an intruder."""
    columns: list[str]
    """Metrics of the spectrum, of the matrix before and after."""
