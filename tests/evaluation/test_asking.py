"""What is refused before there is a model; oracle: what transformers does with the same setting at the first answer."""

import pytest
from transformers import PreTrainedTokenizerBase

from spectral_ft.data.rows import Item
from spectral_ft.errors import ConfigError
from spectral_ft.evaluation.asking import check_chat_template, check_generation
from spectral_ft.evaluation.harness import score_task
from tests.evaluation.small_tasks import small_llama, sums
from tests.evaluation.test_benchmark import benchmark

ITEMS = [Item("1 + 1 =", "2", "2"), Item("2 + 2 =", "4", "4")]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_gen_tok": 4}, r"generation\.max_gen_tok is no setting of generation\. Did you mean max_gen_toks"),
        ({"num_bean": 4}, r"generation\.num_bean is no setting of generation\. Did you mean num_beams"),
        (
            {"num_return_sequences": 2},
            r"num_return_sequences is no setting of generation\..* but max_length, max_new_t",
        ),
        ({"stop_strings": ["a"]}, r"stop_strings is no setting of generation"),
        ({"early_stopping": "x"}, r"benchmark\.generation=\{'early_stopping': 'x'\} cannot be: .*must be a boolean"),
        ({"num_beams": 0}, r"benchmark\.generation\.num_beams=0: it must be a whole number"),
        (
            {"do_sample": True, "temperature": None},
            r"do_sample=true needs a benchmark\.generation\.temperature above 0",
        ),
        ({"do_sample": True}, r"do_sample=true needs a benchmark\.generation\.temperature above 0"),
    ],
)
def test_what_would_end_at_the_first_answer_is_refused(options, sentence, tmp_path):
    with pytest.raises(ConfigError, match=sentence):
        check_generation(options)
    with pytest.raises((ValueError, TypeError, ArithmeticError)):
        score_task(*small_llama(), sums(tmp_path, ITEMS), benchmark(generation=options), stage="base", context=64)


def test_drawing_without_a_temperature_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"do_sample=true needs a benchmark\.generation\.temperature above 0"):
        check_generation({"do_sample": True, "temperature": None})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_gen_toks": 4, "until": ["\n"], "do_sample": False},
        {"num_beams": 2, "length_penalty": 0.5, "early_stopping": True},
        {"do_sample": True, "temperature": 0.7, "top_p": 0.9},
        {"repetition_penalty": 1.1, "suppress_tokens": [3]},
    ],
)
def test_what_transformers_takes_is_taken(options, tmp_path):
    check_generation(options)
    found = score_task(*small_llama(), sums(tmp_path, ITEMS), benchmark(generation=options), stage="base", context=64)
    assert found.scores[0].n == 2


def test_a_tokenizer_without_a_chat_template_is_refused():
    tokenizer: PreTrainedTokenizerBase = small_llama()[1]
    with pytest.raises(ConfigError, match=r"benchmark\.chat_template=true, and the tokenizer .* has no chat template"):
        check_chat_template(tokenizer)
    tokenizer.chat_template = "{{ messages }}"
    check_chat_template(tokenizer)
