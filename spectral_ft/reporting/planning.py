"""The options of `plan`: what it shows beside the plan."""

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Planning:
    """What a plan is compared with; explained in `conf/planning`."""

    against: str | None
