"""The text that the embedded model was made from: generated, nothing downloaded.

The base model learns two-digit sums and *one-step* word problems with a worked answer. The words
of the two-step family (``spectral_ft.data.wordmath``) occur here only in stories without numbers,
which tell what a verb does ("Omar sells lamps. Now Omar has fewer lamps."); its frames do not
occur at all. Only operand pairs of the training split are used, unless another one is asked for.
"""

import random
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

from spectral_ft.data import wordmath
from spectral_ft.data.wordmath import Split, Step, draw_step, draw_two_steps


class Person(NamedTuple):
    """A name with its pronoun."""

    name: str
    pronoun: str


PEOPLE = tuple(
    Person(name, pronoun)
    for names, pronoun in (("Tom Ben Sam Max Paul Jack Leo", "He"), ("Ann Eva Lucy Nora Rita Kate Ida", "She"))
    for name in names.split()
)
STORY_PEOPLE = PEOPLE + tuple(
    Person(name, "She" if name in ("Mia", "Zoe", "Lena", "Tara") else "He") for name in wordmath.NAMES
)
OBJECTS = [
    "apples",
    "pens",
    "books",
    "cups",
    "coins",
    "stones",
    "eggs",
    "cards",
    "balls",
    "hats",
    "flowers",
    "nuts",
    "fish",
    "cakes",
    "keys",
    "toys",
]
STORY_OBJECTS = (*OBJECTS, *wordmath.OBJECTS)
COLOURS = ["big", "small", "red", "blue", "old", "new", "green", "round"]
MOODS = ["happy", "sad", "tired", "glad", "calm", "proud"]
GAINS = ("gets", "wins", "makes", *wordmath.GAINS)
LOSSES = ("loses", "eats", "gives", *wordmath.LOSSES)

ADDING = (
    "{n} has {a} {o}. {h} gets {b} more. How many {o} does {n} have?",
    "{n} has {a} {o}. {k} gives {n} {b}. How many {o} does {n} have now?",
    "There are {a} {o} and {b} {p}. How many in all?",
    "{n} saw {a} {o} and then {b} more. How many {o} in all?",
    "{n} has {a} {o} and {k} has {b}. How many {o} together?",
    "{n} made {a} {o} in the {place} and {b} at home. How many {o} in all?",
    "With {a} {o}, {n} wins {b} more. How many now?",
    "{n} has {a} {o}, then gets {b}. How many now?",
)
TAKING = (
    "{n} has {a} {o}. {h} loses {b}. How many {o} are left?",
    "{n} had {a} {o} and ate {b}. How many {o} are left?",
    "There are {a} {o} in the {place}. {n} takes {b}. How many {o} are left?",
    "{n} has {a} {o}. {h} gives {b} to {k}. How many {o} does {n} have now?",
    "{n} has {a} {o} and {k} has {b}. How many more {o} does {n} have?",
    "{n} needs {a} {o} and has {b}. How many more?",
    "With {a} {o}, {n} loses {b}. How many now?",
    "{n} has {a} {o}, then loses {b}. How many now?",
)
PLAIN_ADDING = ("What is {a} plus {b}?", "Add {b} to {a}.", "Find the sum of {a} and {b}.")
PLAIN_TAKING = ("What is {a} minus {b}?", "Take {b} from {a}.", "Find the difference of {a} and {b}.")


class Item(NamedTuple):
    """A prompt of the base's own family, and its completion."""

    prompt: str
    completion: str


def equation(rng: random.Random, split: Split = "train") -> Item:
    """A bare equation, asked after the equals sign."""
    step = draw_step(rng, split)
    return Item(f"{step.left}{step.sign}{step.right}=", str(step.result))


def word_problem(rng: random.Random, split: Split = "train") -> Item:
    """A one-step word problem with a worked answer."""
    step = draw_step(rng, split)
    return _asked(rng, ADDING if step.sign == "+" else TAKING, step)


def plain_question(rng: random.Random, split: Split = "train") -> Item:
    """A question without a story, with a worked answer."""
    step = draw_step(rng, split)
    return _asked(rng, PLAIN_ADDING if step.sign == "+" else PLAIN_TAKING, step)


def _asked(rng: random.Random, frames: tuple[str, ...], step: Step) -> Item:
    person, other = rng.sample(PEOPLE, 2)
    things, more_things = rng.sample(OBJECTS, 2)
    question = rng.choice(frames).format(
        n=person.name,
        h=person.pronoun,
        k=other.name,
        o=things,
        p=more_things,
        place=rng.choice(wordmath.PLACES),
        a=step.left,
        b=step.right,
    )
    return Item(f"{question} Answer:", f" {step}")


def single_digit_fact(rng: random.Random) -> str:
    """One entry of the addition table that two-digit sums are made of."""
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    return f"{a}+{b}={a + b}" if rng.random() < 0.5 else f"{a + b}-{a}={b}"


def chain(rng: random.Random) -> str:
    """Two equations, the second going on from the first."""
    first, second = draw_two_steps(rng, "train")
    return f"{first}; {second}"


def number_sense(rng: random.Random) -> str:
    """Counting, place value or comparison."""
    kind = rng.randrange(4)
    n = rng.randint(10, 95)
    if kind == 0:
        return "Count: " + ", ".join(str(n + i) for i in range(4)) + "."
    if kind == 1:
        return f"{n} is {n // 10} tens and {n % 10} ones."
    if kind == 2:
        return f"{n} comes after {n - 1} and before {n + 1}."
    a, b = rng.sample(range(100), 2)
    return f"Which is more, {a} or {b}? Answer: {max(a, b)}"


def recall(rng: random.Random) -> str:
    """Three numbers of which one is asked for: to find a number by its place or by its thing."""
    numbers = rng.sample(range(wordmath.SMALLEST, wordmath.LARGEST + 1), 3)
    if rng.random() < 0.5:
        which = rng.randrange(2)
        beside = ("before", "after")[which]
        listed = f"{numbers[0]}, {numbers[1]} and {numbers[2]}."
        return f"{listed} Which comes {beside} {numbers[1]}? Answer: {numbers[2 * which]}"
    one, two, three = rng.sample(OBJECTS, 3)
    asked = rng.randrange(3)
    has = f"{rng.choice(PEOPLE).name} has {numbers[0]} {one}, {numbers[1]} {two} and {numbers[2]} {three}."
    return f"{has} How many {(one, two, three)[asked]}? Answer: {numbers[asked]}"


def listed_chain(rng: random.Random) -> str:
    """Three numbers, then two equations that use them in turn: what to copy where, without a story."""
    first, second = draw_two_steps(rng, "train")
    return f"{first.left}, {first.right} and {second.right}. {first}; {second}"


def two_changes(rng: random.Random) -> str:
    """A story of two verbs in any combination, without numbers."""
    person = rng.choice(STORY_PEOPLE).name
    verbs = [rng.choice(rng.choice((GAINS, LOSSES))) for _ in range(2)]
    first, second = ("more" if verb in GAINS else "fewer" for verb in verbs)
    one, other = rng.sample(STORY_OBJECTS, 2)
    return f"{person} {verbs[0]} {one}, then {verbs[1]} {other}. Now {person} has {first} {one} and {second} {other}."


def story(rng: random.Random) -> str:
    """Sentences without numbers, in which the words of the unseen family occur."""
    person, other = rng.choice(STORY_PEOPLE), rng.choice(STORY_PEOPLE)
    things, more_things = rng.choice(STORY_OBJECTS), rng.choice(STORY_OBJECTS)
    place, colour = rng.choice(wordmath.PLACES), rng.choice(COLOURS)
    sentences = (
        f"{person.name} {rng.choice(GAINS)} {things}. Now {person.name} has more {things}.",
        f"{person.name} {rng.choice(LOSSES)} {things}. Now {person.name} has fewer {things}.",
        f"{person.name} {rng.choice(GAINS)} {things} and then {rng.choice(LOSSES)} {more_things}. "
        f"Now {person.name} has more {things} and fewer {more_things}.",
        f"{person.name} {rng.choice(LOSSES)} {things} and then {rng.choice(GAINS)} {more_things}. "
        f"Now {person.name} has fewer {things} and more {more_things}.",
        f"{person.name} packs the {things} and the {colour} {more_things}.",
        f"What remains at the {place}? The {things}.",
        f"{other.name} saw {person.name} at the {place}.",
        f"The {things} are {colour}. {person.pronoun} was {rng.choice(MOODS)}.",
    )
    return " ".join(rng.choices(sentences, weights=(3, 3, 2, 2, 1, 1, 1, 1), k=rng.randint(1, 2)))


Phase = Literal["facts", "problems", "recall"]
"""Of the pretraining: mostly equations first, then mostly word problems, at last recall beside them."""

KINDS = {
    # kind: weight in each phase
    "equation": (45, 14, 12),
    "fact": (25, 3, 2),
    "chain": (4, 5, 4),
    "word problem": (14, 56, 28),
    "plain question": (2, 6, 4),
    "number sense": (6, 5, 2),
    "story": (4, 11, 6),
    "recall": (0, 0, 10),
    "listed chain": (0, 0, 18),
    "two changes": (0, 0, 14),
}
DRAW: dict[str, Callable[[random.Random], str]] = {
    "equation": lambda rng: "".join(equation(rng)),
    "fact": single_digit_fact,
    "chain": chain,
    "word problem": lambda rng: "".join(word_problem(rng)),
    "plain question": lambda rng: "".join(plain_question(rng)),
    "number sense": number_sense,
    "story": lambda rng: ("#### " if rng.random() < 0.15 else "") + story(rng),
    "recall": recall,
    "listed chain": listed_chain,
    "two changes": two_changes,
}


def document(rng: random.Random, phase: Phase = "problems") -> str:
    """One document of the pretraining text.

    Args:
        rng: Source of randomness.
        phase: Decides the mixture.

    Returns:
        The text, without end mark.
    """
    place = get_args(Phase).index(phase)
    (kind,) = rng.choices(list(KINDS), weights=[weights[place] for weights in KINDS.values()])
    return DRAW[kind](rng)
