"""What `analyze` shows and writes beside its report."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Inspection:
    """The options of `analyze`."""

    columns: list[str]
    matrices: str | None
    drift: str | None
    scan: str | None
    export: list[Literal["spectrum", "axolotl"]]
    column: str
    top_fraction: Annotated[float, Field(gt=0, le=1)]
    embeddings: bool
