"""Generated two-step word problems: the task that the embedded model has not seen.

A problem names a person, a number of things and two changes, and asks what remains; the answer
works out both steps and ends in ``#### N``, the marker of GSM8K:

    Mia packs 84 lamps, drops 61 and then bakes 30. What remains?
     84-61=23; 23+30=53 #### 53

Every number has two digits, and the second change is a round ten. Which operand pairs a split may
use is decided by a hash of the pair, so that no addition of the test split, nor the subtraction
that undoes it, occurs in any training text, neither here nor in the text that made the base model
(``experiments/tiny_model``).

Known gaps: English only, whole numbers only, two steps only.
"""

import random
import zlib
from typing import Literal, NamedTuple

Split = Literal["train", "dev", "test"]

SMALLEST, LARGEST = 10, 99

SECOND_GRAIN = 10
"""With any second change, some seeds never learn to copy its last digit (docs/log.md, 2026-11-22)."""

NAMES = ("Mia", "Omar", "Zoe", "Ivan", "Lena", "Hugo", "Tara", "Finn")
OBJECTS = ("kites", "lamps", "shells", "drums", "masks", "ropes", "tiles", "bells", "plums", "boats")
PLACES = ("park", "shop", "school", "house", "garden", "river", "farm", "market")
GAINS = ("buys", "finds", "bakes", "collects", "receives", "borrows")
LOSSES = ("sells", "drops", "lends", "breaks", "mails", "burns")
FRAMES = (
    "{name} packs {a} {things}, {first} {b} and then {second} {c}. What remains?",
    "With {a} {things} at the {place}, {name} {first} {b}, then {second} {c}. What remains?",
)


class Problem(NamedTuple):
    """One word problem."""

    question: str
    """The prompt."""
    answer: str
    """The worked completion, with its leading space."""
    result: int
    """The number after ``####``."""


class Step(NamedTuple):
    """One equation ``left sign right = result``."""

    left: int
    sign: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left}{self.sign}{self.right}={self.result}"


def split_of_pair(a: int, b: int) -> Split:
    """The only split in whose texts the operands of ``a + b`` may stand.

    Args:
        a: One addend.
        b: The other addend; the order does not matter.

    Returns:
        ``test`` for one pair in five, ``dev`` for one in ten, ``train`` for the rest.
    """
    bucket = zlib.crc32(f"{min(a, b)}+{max(a, b)}".encode()) % 10
    return "test" if bucket < 2 else "dev" if bucket == 2 else "train"


def draw_step(rng: random.Random, split: Split) -> Step:
    """Draw an addition or a subtraction whose three numbers have two digits.

    Args:
        rng: Source of randomness.
        split: Split whose operand pairs are allowed.

    Returns:
        The step.
    """
    while True:
        a, b = rng.randint(SMALLEST, LARGEST), rng.randint(SMALLEST, LARGEST)
        if a + b <= LARGEST and split_of_pair(a, b) == split:
            return Step(a, "+", b, a + b) if rng.random() < 0.5 else Step(a + b, "-", a, b)


def draw_two_steps(rng: random.Random, split: Split, *, grain: int = 1) -> tuple[Step, Step]:
    """Draw two steps of which the second starts from the first one's result.

    Args:
        rng: Source of randomness.
        split: Split whose operand pairs are allowed in both steps.
        grain: The second change is a multiple of this.

    Returns:
        Both steps.
    """
    while True:
        first = draw_step(rng, split)
        start, change = first.result, rng.randrange(SMALLEST, LARGEST + 1, grain)
        if rng.random() < 0.5:
            second, addends = Step(start, "+", change, start + change), (start, change)
        else:
            second, addends = Step(start, "-", change, start - change), (start - change, change)
        if SMALLEST <= second.result <= LARGEST and split_of_pair(*addends) == split:
            return first, second


def draw_problem(rng: random.Random, split: Split) -> Problem:
    """Draw one word problem.

    Args:
        rng: Source of randomness.
        split: Split whose operand pairs are allowed.

    Returns:
        The problem.
    """
    first, second = draw_two_steps(rng, split, grain=SECOND_GRAIN)
    question = rng.choice(FRAMES).format(
        name=rng.choice(NAMES),
        things=rng.choice(OBJECTS),
        place=rng.choice(PLACES),
        first=rng.choice(GAINS if first.sign == "+" else LOSSES),
        second=rng.choice(GAINS if second.sign == "+" else LOSSES),
        a=first.left,
        b=first.right,
        c=second.right,
    )
    return Problem(question, f" {first}; {second} #### {second.result}", second.result)


def draw_problems(count: int, *, split: Split, seed: int) -> list[Problem]:
    """Draw problems with distinct questions.

    Args:
        count: How many.
        split: Split whose operand pairs are allowed.
        seed: Seed of the draw.

    Returns:
        The problems, in the order in which they were drawn.
    """
    rng = random.Random(f"{split}:{seed}")
    problems: dict[str, Problem] = {}
    while len(problems) < count:
        problem = draw_problem(rng, split)
        problems.setdefault(problem.question, problem)
    return list(problems.values())
