"""Write the text on which forgetting is measured: `PYTHONPATH=. python experiments/tiny_model/general_text.py`.

Documents of the mixture that the base model read last, which has every kind, drawn anew, and with operand pairs of the
`test` split, which stand in no training text. The two kinds of chains have the pairs of the training split, since
their generators offer no other. No kind is kept from repeating by chance what was read: see README.md for how much is.
"""

import argparse
import random
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from language import DRAW, KINDS, Item, Phase, equation, plain_question, word_problem

from spectral_ft.data.wordmath import Split

SHIPPED = Path(__file__).parents[2] / "spectral_ft" / "models" / "tiny" / "general.txt"
DOCUMENTS = 200
SEED = "general text"
"""The pretraining text was drawn from `pretraining window N`."""
HELD_OUT: dict[str, Callable[[random.Random, Split], Item]] = {
    "equation": equation,
    "word problem": word_problem,
    "plain question": plain_question,
}
"""The kinds whose operands can be chosen."""


def draw(kind: str, rng: random.Random) -> str:
    """One document of a kind, with held-out operands where it has any to choose."""
    if kind not in HELD_OUT:
        return DRAW[kind](rng)
    return "".join(HELD_OUT[kind](rng, "test"))


def general_text() -> str:
    """The documents, parted by blank lines; the same at every call."""
    rng = random.Random(SEED)
    last = len(get_args(Phase)) - 1
    kinds = rng.choices(list(KINDS), weights=[weights[last] for weights in KINDS.values()], k=DOCUMENTS)
    return "\n\n".join(draw(kind, rng) for kind in kinds) + "\n"


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.parse_args().out.write_text(general_text(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
