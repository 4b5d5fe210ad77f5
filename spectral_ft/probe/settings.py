"""The options of the probe stage."""

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class ProbeSettings:
    """How much is looked at; explained option by option in `conf/probe`."""

    batches: Count
    batch_size: Count
    seed: Annotated[int, Field(ge=0)]
    sketch_dim: Annotated[int, Field(ge=2)]
