"""The root of the configuration: the keys that `conf/config.yaml` may have, typed.

It stands first in the defaults list, so that a misspelt root key or a wrong type fails before
anything loads. What stands below a group is checked by the component that the group names.
"""

from dataclasses import dataclass
from typing import Any

GROUPS = (
    "model",
    "method",
    "rank_policy",
    "dataset",
    "benchmark",
    "spectrum",
    "probe",
    "budget",
    "grouping",
    "lr_by",
    "quantization",
    "training",
    "general_text",
    "drift",
    "tracking",
    "analysis",
    "planning",
)
"""Groups whose choice is a component; `arm`, `experiment` and `scale` only set others."""

SHORTCUTS = ("arm", "experiment", "scale")
"""Groups whose choice sets options of the others."""


@dataclass
class RunConfig:
    """What a run is made of."""

    model: Any
    method: Any
    rank_policy: Any
    dataset: Any
    benchmark: Any
    spectrum: Any
    probe: Any
    budget: Any
    grouping: Any
    lr_by: Any
    quantization: Any
    training: Any
    general_text: Any
    drift: Any
    tracking: Any
    analysis: Any
    planning: Any
    adapter: Any
    rescore: str | None
    tuned: str | None
    energy: float | None
    edge: bool
    weighting: str
    curve: bool
    seed: int
    figures: bool
    verify: bool
