"""The generated word problems as a data set and as test items."""

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.data.dataset import Example
from spectral_ft.data.rows import Item
from spectral_ft.data.wordmath import Split, draw_problems


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class WordMath:
    """Training problems; their operand pairs are disjoint from the test's."""

    name: str
    limit: Annotated[int, Field(ge=1, le=100_000)]
    validation: Annotated[int, Field(ge=0)]
    data_seed: int
    train_on_inputs: bool
    drop_overlap: bool
    max_length: Annotated[int, Field(ge=2)]
    too_long: Literal["truncate", "drop", "error"]

    data_dir = None
    prompt = "plain"

    def check_source(self) -> None:
        """Nothing to look for: the problems are generated."""

    def instructions(self) -> list[str]:
        """What every problem asks.

        Returns:
            `limit` questions, then `validation` further ones.
        """
        return [example.prompt for example in (*self.examples(), *self.validation_examples())]

    def examples(self, left_out: Collection[int] = ()) -> list[Example]:
        """The training examples.

        Args:
            left_out: Problems that are left out, by their places in `instructions`; no others are drawn for them.

        Returns:
            Prompts and completions: `limit`, less those that are left out.
        """
        drawn = _texts(self.limit, split="train", seed=self.data_seed, first=0)
        return [example for example in drawn if example.row not in left_out]

    def validation_examples(self, left_out: Collection[int] = ()) -> list[Example]:
        """Examples that are not trained on, nor tested on.

        Args:
            left_out: As for `examples`.

        Returns:
            Prompts and completions: `validation`, less those that are left out.
        """
        drawn = _texts(self.validation, split="dev", seed=self.data_seed, first=self.limit)
        return [example for example in drawn if example.row not in left_out]


def _texts(count: int, *, split: Split, seed: int, first: int) -> list[Example]:
    problems = draw_problems(count, split=split, seed=seed)
    return [Example(problem.question, problem.answer, row) for row, problem in enumerate(problems, start=first)]


def evaluation_items(*, count: int, data_seed: int, split: Literal["dev", "test"]) -> list[Item]:
    """Problems to score a model on.

    Args:
        count: How many.
        data_seed: Seed of the draw.
        split: `test`, or `dev` to choose settings by.

    Returns:
        Items whose answer is the number after `####`.
    """
    problems = draw_problems(count, split=split, seed=data_seed)
    return [Item(problem.question, problem.answer, str(problem.result)) for problem in problems]
