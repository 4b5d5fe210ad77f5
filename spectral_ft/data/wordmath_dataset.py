"""The generated word problems as a data set and as test items."""

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
    max_length: Annotated[int, Field(ge=2)]
    too_long: Literal["truncate", "drop", "error"]

    data_dir = None

    def check_source(self) -> None:
        """Nothing to look for: the problems are generated."""

    def examples(self) -> list[Example]:
        """The training examples.

        Returns:
            `limit` prompts and completions.
        """
        return _texts(self.limit, split="train", seed=self.data_seed)

    def validation_examples(self) -> list[Example]:
        """Examples that are not trained on, nor tested on.

        Returns:
            `validation` prompts and completions.
        """
        return _texts(self.validation, split="dev", seed=self.data_seed)


def _texts(count: int, *, split: Split, seed: int) -> list[Example]:
    return [Example(problem.question, problem.answer) for problem in draw_problems(count, split=split, seed=seed)]


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
