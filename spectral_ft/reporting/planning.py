"""The options of `plan`: what it shows next to the plan, and whether the plan in the folder was edited."""

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Planning:
    """What a plan is compared with, and how the one in the folder is taken; explained in `conf/planning`."""

    against: str | None
    edited: bool = False
