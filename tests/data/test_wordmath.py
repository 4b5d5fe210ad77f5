"""Oracle: the written arithmetic done again, and the questions solved by the meaning of their verbs."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.data.wordmath import GAINS, LOSSES, draw_problem, draw_problems, split_of_pair
from tests.oracles import law

SPLITS = ("train", "dev", "test")
splits = st.sampled_from(SPLITS)
EQUATION = re.compile(r"(\d+)([+-])(\d+)=(\d+)")


def equations(problem):
    return [(int(a), sign, int(b), int(result)) for a, sign, b, result in EQUATION.findall(problem.answer)]


def addends(problem):
    """The unordered operands of both steps, a subtraction undone."""
    return {
        tuple(sorted((left, right) if sign == "+" else (result, right)))
        for left, sign, right, result in equations(problem)
    }


@pytest.fixture(scope="module")
def problems():
    return {split: draw_problems(400, split=split, seed=0) for split in SPLITS}


@law
@given(splits, st.integers())
def test_both_steps_are_right_and_follow_from_each_other(split, seed):
    problem = draw_problem(random.Random(seed), split)
    first, second = equations(problem)
    for left, sign, right, result in (first, second):
        assert result == (left + right if sign == "+" else left - right)
        assert all(10 <= number <= 99 for number in (left, right, result))
    assert second[0] == first[3]
    assert problem.answer.endswith(f" #### {problem.result}")
    assert problem.result == second[3]


@law
@given(splits, st.integers())
def test_the_question_alone_gives_the_result(split, seed):
    problem = draw_problem(random.Random(seed), split)
    start, *changes = map(int, re.findall(r"\d+", problem.question))
    signs = [1 if word in GAINS else -1 for word in re.findall(r"\w+", problem.question) if word in {*GAINS, *LOSSES}]
    assert len(signs) == len(changes) == 2
    assert start + sum(sign * change for sign, change in zip(signs, changes, strict=True)) == problem.result


def test_no_pair_of_operands_stands_in_two_splits(problems):
    train, dev, test = (set().union(*map(addends, problems[split])) for split in SPLITS)
    assert train and dev and test
    assert train.isdisjoint(dev)
    assert train.isdisjoint(test)
    assert dev.isdisjoint(test)


@law
@given(st.integers(10, 99), st.integers(10, 99))
def test_the_order_of_a_pair_is_irrelevant(a, b):
    assert split_of_pair(a, b) == split_of_pair(b, a)


def test_one_pair_in_five_is_for_testing_and_one_in_ten_for_development():
    pairs = [split_of_pair(a, b) for a in range(10, 100) for b in range(a, 100)]
    assert pairs.count("test") / len(pairs) == pytest.approx(0.2, abs=0.03)
    assert pairs.count("dev") / len(pairs) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("split", SPLITS)
def test_questions_are_distinct(problems, split):
    assert len({problem.question for problem in problems[split]}) == len(problems[split]) == 400


@pytest.mark.parametrize("split", SPLITS)
def test_a_seed_gives_the_same_problems_again_and_another_one_gives_others(problems, split):
    assert draw_problems(400, split=split, seed=0) == problems[split]
    assert draw_problems(400, split=split, seed=1) != problems[split]


def test_a_longer_draw_begins_with_the_shorter_one(problems):
    assert draw_problems(50, split="test", seed=0) == problems["test"][:50]
