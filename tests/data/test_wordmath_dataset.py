"""Oracle: the generator's own problems of the right split."""

import pytest
from pydantic import ValidationError

from spectral_ft.data import wordmath_dataset
from spectral_ft.data.wordmath import draw_problems


def wordmath(**options):
    defaults = {"limit": 20, "validation": 7, "data_seed": 3, "train_on_inputs": False, "max_length": 64}
    defaults |= {"too_long": "error", "drop_overlap": True}
    return wordmath_dataset.WordMath(name="wordmath", **defaults | options)


def test_examples_are_training_problems():
    problems = draw_problems(20, split="train", seed=3)
    assert wordmath().examples() == [
        (problem.question, problem.answer, number) for number, problem in enumerate(problems)
    ]


def test_held_out_examples_are_dev_problems():
    problems = draw_problems(7, split="dev", seed=3)
    assert wordmath().validation_examples() == [
        (problem.question, problem.answer, 20 + number) for number, problem in enumerate(problems)
    ]
    assert wordmath(validation=0).validation_examples() == []


def test_problems_are_left_out_by_their_places_and_no_others_are_drawn():
    whole = wordmath()
    assert whole.instructions() == [example.prompt for example in whole.examples() + whole.validation_examples()]
    left_out = {0, 19, 20, 26}
    assert whole.examples(left_out) == whole.examples()[1:19]
    assert whole.validation_examples(left_out) == whole.validation_examples()[1:6]


@pytest.mark.parametrize("split", ["dev", "test"])
def test_items_are_problems_of_their_split_whose_answer_is_the_number(split):
    problems = draw_problems(5, split=split, seed=3)
    items = wordmath_dataset.evaluation_items(count=5, data_seed=3, split=split)
    assert [(item.instruction, item.completion, item.answer) for item in items] == [
        (problem.question, problem.answer, str(problem.result)) for problem in problems
    ]


def test_there_is_no_file_to_look_for():
    assert wordmath().data_dir is None
    wordmath().check_source()


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": None}, {"max_length": 1}, {"too_long": "skip"}])
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        wordmath(**wrong)
