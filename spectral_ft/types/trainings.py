"""What a training left, and what it cost."""

from pydantic.dataclasses import dataclass

from spectral_ft.types.plans import AllocationPlan
from spectral_ft.types.strictness import STRICT

IGNORED = -100
"""Label that the loss leaves out."""
FILL = -1
"""Number of no example: what fills the last batch of several processes, and is not learnt from."""


@dataclass(frozen=True, config=STRICT)
class Round:
    """What the policy said when it was asked again on the weights as trained so far."""

    step: int
    applied: bool
    """False at the end of the training, where it is only measured."""
    changed: tuple[str, ...]
    """Matrices that were given another rank, learning rate or scaling."""
    plan: AllocationPlan
    columns: dict[str, dict[str, float | None]]
    """Column that the policy reads, to module name, to its value on `W + scaling B A`; adapted matrices only."""


@dataclass(frozen=True, config=STRICT)
class HeldOutLoss:
    """A loss on text that is not trained on, before the training and after it."""

    before: float
    after: float
    tokens: int
    """That the loss is a mean over; texts, for a classifier."""


@dataclass(frozen=True, config=STRICT)
class TrainOutcome:
    """What training left and what it cost."""

    adapter: str | None
    """Folder, relative to the run's."""
    first_loss: float
    final_loss: float
    """Mean over the last tenth of the steps."""
    steps: int
    seconds: float
    """In the training loop, over all resumptions."""
    tokens: int
    """Without padding."""
    tokens_per_second: float
    samples_per_second: float
    """Examples as often as they were learnt from, the last batch of an epoch as small as it was; tokens likewise."""
    peak_memory_bytes: int
    """Resident, of all processes together, in the training loop: the base model and torch itself are part of it. Where
    the system cannot forget a peak (none but Linux can), of whatever the process held before, too."""
    peak_device_bytes: int | None
    """Allocated on the first process's CUDA device in the training loop, base model included; None without one."""
    trainable_parameters: int
    examples: int
    truncated_examples: int
    """Examples cut at the maximum length."""
    dropped_examples: int
    """Examples left out, which were longer and should be, or were cut before there was anything to learn from."""
    best_step: int | None = None
    """Whose weights were kept; None where the last ones were."""
    validation_loss: HeldOutLoss | None = None
    """A learnt token of the held-out examples of the training task; None without any."""
    general_loss: HeldOutLoss | None = None
    """A token of general text: how much is forgotten; None without such a text."""
    rounds: tuple[Round, ...] = ()
    """When the policy was asked again."""
