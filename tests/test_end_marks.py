"""Tokenizers that set marks by themselves; oracle: the embedded tokenizer, which sets none behind a text."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from spectral_ft.data.dataset import Example
from spectral_ft.data.general_text import text_rows
from spectral_ft.data.tokenised import tokenise
from spectral_ft.end_marks import added_marks, open_ended
from spectral_ft.errors import CheckpointError
from spectral_ft.evaluation.language_model import CheckedModel
from spectral_ft.evaluation.responses import Responses
from spectral_ft.models.loading import load_tokenizer
from tests.conftest import EMBEDDED, edit_json

BOS, EOS, UNK = (("<bos>", 1), ("<eos>", 2), ("<unk>", 3))
QUESTIONS = [f"What is {a} plus {b}? Answer:" for a in range(21, 51, 3) for b in (10, 12, 14, 31, 32, 33)]


def mark(token: tuple[str, int]) -> dict[str, Any]:
    return {"SpecialToken": {"id": token[0], "type_id": 0}}


def template(*behind: tuple[str, int]) -> dict[str, Any]:
    text = {"Sequence": {"id": "A", "type_id": 0}}
    tokens = {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in (BOS, *behind)}
    single = [mark(BOS), text, *map(mark, behind)]
    return {"type": "TemplateProcessing", "single": single, "pair": [text, text], "special_tokens": tokens}


BERT = {"sep": list(EOS), "cls": list(BOS)}
ROBERTA = {"type": "RobertaProcessing", **BERT, "trim_offsets": False, "add_prefix_space": False}
LETTERS = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
FORMS: dict[str, dict[str, Any]] = {
    "a template with <eos>": template(EOS),
    "two marks": template(UNK, EOS),
    "a mark that is not the end token": template(UNK),
    "BERT": {"type": "BertProcessing", **BERT},
    "RoBERTa": ROBERTA,
    "a sequence": {"type": "Sequence", "processors": [LETTERS, template(EOS)]},
}


@pytest.fixture(scope="module")
def plain() -> PreTrainedTokenizerBase:
    return load_tokenizer(EMBEDDED, trust_remote_code=False)


@pytest.fixture(scope="module")
def marking(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PreTrainedTokenizerBase]:
    def made(form: str) -> PreTrainedTokenizerBase:
        folder = Path(shutil.copytree(EMBEDDED, tmp_path_factory.mktemp("form") / "model"))
        edit_json(folder / "tokenizer.json", post_processor=FORMS[form])
        return load_tokenizer(folder, trust_remote_code=False)

    return made


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32).eval()


@pytest.mark.parametrize("form", FORMS)
def test_training_examples_and_general_text_are_those_of_a_tokenizer_without_end_marks(
    form: str, marking: Callable[[str], PreTrainedTokenizerBase], plain: PreTrainedTokenizerBase
) -> None:
    tokenizer = marking(form)
    behind = added_marks(tokenizer).behind
    assert behind and tokenizer("a")["input_ids"][-len(behind) :] == list(behind)
    examples = [Example("What is 62 minus 20? Answer:", " 62-20=42"), Example("1+2=", "3")]
    for too_long, length in (("error", 64), ("drop", 9)):
        found, expected = (
            tokenise(examples, one, max_length=length, too_long=too_long, train_on_inputs=False)  # type: ignore[arg-type]
            for one in (tokenizer, plain)
        )
        assert found.rows == expected.rows
        assert found.rows[-1]["labels"][-1] == plain.eos_token_id
    for join in (True, False):
        rows = [
            text_rows(["What is 62 minus 20?", "a b c"], one, join=join, sequence_length=16, max_tokens=99)
            for one in (tokenizer, plain)
        ]
        assert rows[0] == rows[1]
    assert added_marks(tokenizer).behind == behind  # the tokenizer itself is as it was


def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path, questions: list[str]
) -> tuple[list[str], list[tuple[float, bool]]]:
    responses = Responses(file, task="sums")
    lm = CheckedModel(
        model, tokenizer, responses, task="sums", kind="causal_lm", batch_size=20, largest_batch=20, context=128
    )
    asked = [
        Instance("generate_until", {}, (q, {"until": ["\n"], "max_gen_toks": 12}), i) for i, q in enumerate(questions)
    ]
    written = lm.generate_until(asked, disable_tqdm=True)
    pairs = [(question, f" {text}") for question, text in zip(questions, written, strict=True)]
    rated = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    found = lm.loglikelihood(rated, disable_tqdm=True)
    responses.close(finished=True)
    return written, found


@pytest.fixture(scope="module")
def expected(
    model: PreTrainedModel, plain: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], list[tuple[float, bool]]]:
    return answers(model, plain, tmp_path_factory.mktemp("plain") / "r.sqlite", QUESTIONS)


def test_the_embedded_model_answers_what_is_asked_here(expected: tuple[list[str], list[tuple[float, bool]]]) -> None:
    written, likelihoods = expected
    sums = [sum(map(int, re.findall(r"\d+", question))) for question in QUESTIONS]
    assert [int(text.rpartition("=")[2]) for text in written] == sums
    assert all(greedy for _, greedy in likelihoods)


@pytest.mark.parametrize("form", ["a template with <eos>", "two marks", "BERT"])
def test_sixty_of_sixty_stay_sixty(
    form: str, marking: Callable[[str], PreTrainedTokenizerBase], model: PreTrainedModel, tmp_path: Path,
    expected: tuple[list[str], list[tuple[float, bool]]],
) -> None:  # fmt: skip
    assert len(QUESTIONS) == 60
    assert answers(model, marking(form), tmp_path / "r.sqlite", QUESTIONS) == expected


def test_a_tokenizer_that_sets_nothing_behind_a_text_is_the_same(plain: PreTrainedTokenizerBase) -> None:
    assert open_ended(plain) is plain
    assert added_marks(plain) == ((1,), ())


def test_marks_that_cannot_be_left_out_are_refused(plain: PreTrainedTokenizerBase) -> None:
    class Marking:
        name_or_path = "mine"
        backend_tokenizer = None

        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            return {"input_ids": [5, 6] + [2] * add_special_tokens}

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [f"<{one}>" for one in ids]

    with pytest.raises(CheckpointError, match="mine sets <2>"):
        open_ended(Marking())  # type: ignore[arg-type]


def without_end(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("named_by", ["config.json", "generation_config.json", "tokenizer.json"])
def test_an_end_token_that_only_other_files_name_is_taken_and_said(
    named_by: str, checkpoint_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    without_end(checkpoint_copy)
    for file in {"config.json", "generation_config.json"} - {named_by}:
        edit_json(checkpoint_copy / file, eos_token_id=None)
    if named_by == "tokenizer.json":
        edit_json(checkpoint_copy / named_by, post_processor=FORMS["BERT"])
    with caplog.at_level("INFO"):
        assert load_tokenizer(checkpoint_copy, trust_remote_code=False).eos_token == "<eos>"
    assert "<eos>" in caplog.text


def test_a_tokenizer_without_any_end_is_refused(checkpoint_copy: Path, model: PreTrainedModel, tmp_path: Path) -> None:
    without_end(checkpoint_copy)
    for file in ("config.json", "generation_config.json"):
        edit_json(checkpoint_copy / file, eos_token_id=None)
    with pytest.raises(CheckpointError, match="eos_token"):
        load_tokenizer(checkpoint_copy, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_copy)
    with pytest.raises(CheckpointError, match="eos_token"):
        tokenise([Example("a", "b")], tokenizer, max_length=8, too_long="error", train_on_inputs=False)
    with pytest.raises(CheckpointError, match="eos_token"):
        answers(model, tokenizer, tmp_path / "r.sqlite", ["a"])
