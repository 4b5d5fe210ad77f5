"""Answers on disk; oracle: an evaluation that was not killed, with every batch counted."""

import json
import sqlite3
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from spectral_ft.data.rows import Item
from spectral_ft.evaluation import language_model, responses
from spectral_ft.evaluation.harness import score_task
from spectral_ft.evaluation.language_model import CheckedModel
from spectral_ft.evaluation.prepare import PreparedTask
from spectral_ft.evaluation.records import TaskScores
from spectral_ft.evaluation.responses import Responses
from tests.evaluation.small_tasks import choices, small_llama, sums
from tests.evaluation.test_benchmark import benchmark

ITEMS = [Item(f"{n} + {n * n} =", f"#### {n + n * n}", str(n + n * n)) for n in range(1, 8)]
CASES = {"written": lambda folder: sums(folder, ITEMS), "chosen": lambda folder: choices(folder, ITEMS)}


class Killed(BaseException):
    """As a signal does it."""


def asked(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, task: PreparedTask, batch_size: int | None = 2
) -> TaskScores:
    options = benchmark(batch_size=batch_size, gold_loss=True)
    return score_task(model, tokenizer, task, options, stage="base", context=64)


def killing(calls: list[torch.Size], *, after: int) -> Any:
    """The model's own forward or generate, which dies before a batch."""

    def wrap(original: Any) -> Any:
        def called(self: CheckedModel, inputs: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
            inputs = kwargs.pop("context") if inputs is None else inputs
            result = original(self, inputs, *args, **kwargs)
            if len(calls) == after:
                raise Killed
            calls.append(inputs.shape)
            return result

        return called

    return wrap


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("kind", CASES)
def test_a_killed_task_goes_on_with_the_batches_that_are_left(
    kind: str, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = small_llama()
    name = "_model_generate" if kind == "written" else "_model_call"
    original = getattr(CheckedModel, name)
    whole: list[torch.Size] = []
    monkeypatch.setattr(CheckedModel, name, killing(whole, after=-1)(original))
    expected = asked(model, tokenizer, CASES[kind](tmp_path / "whole"))
    first: list[torch.Size] = []
    task = CASES[kind](tmp_path / "cut")
    monkeypatch.setattr(CheckedModel, name, killing(first, after=after)(original))
    with pytest.raises(Killed):
        asked(model, tokenizer, task)
    rest: list[torch.Size] = []
    monkeypatch.setattr(CheckedModel, name, killing(rest, after=-1)(original))
    assert asked(model, tokenizer, task) == expected
    assert first + rest == whole and len(whole) > 3
    assert not list(task.file.parent.glob("*.sqlite"))


@pytest.mark.parametrize(("fitting", "size"), [(8, 2), (1, 1)])
@pytest.mark.parametrize("kind", CASES)
def test_a_batch_that_was_found_stays_where_it_fits(
    kind: str, fitting: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "_model_generate" if kind == "written" else "_model_call"
    original = getattr(CheckedModel, name)

    def batches(folder: Path, *, after: int, fitting: int) -> list[torch.Size]:
        found: list[torch.Size] = []
        monkeypatch.setattr(language_model, "items_at_once", lambda *_, **__: fitting)
        monkeypatch.setattr(CheckedModel, name, killing(found, after=after)(original))
        with nullcontext() if after < 0 else pytest.raises(Killed):
            asked(*small_llama(), CASES[kind](folder), batch_size=None)
        return found

    whole = batches(tmp_path / "whole", after=-1, fitting=2)
    first = batches(tmp_path / "cut", after=1, fitting=2)
    rest = batches(tmp_path / "cut", after=-1, fitting=fitting)
    assert {shape[0] for shape in whole[:-1]} == {2} and {shape[0] for shape in rest[:-1]} == {size}
    assert size == 1 or first + rest == whole


def test_a_damaged_file_is_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, tokenizer = small_llama()
    expected = asked(model, tokenizer, sums(tmp_path / "one", ITEMS))
    task = sums(tmp_path / "two", ITEMS)
    task.file.with_name("sums.base.responses.sqlite").write_bytes(b"no database" * 100)
    assert asked(model, tokenizer, task) == expected
    assert "is damaged: what it held is asked again" in caplog.text


def other_key(file: Path) -> None:
    """A digit of a key in the table or in its index, as a flipped bit changes it."""
    content = file.read_bytes()
    with closing(sqlite3.connect(file)) as connection:
        ((key,),) = connection.execute("SELECT key FROM unnamed LIMIT 1")
    other = ("0" if key[0] != "0" else "1") + key[1:]
    file.write_bytes(content.replace(key.encode(), other.encode(), 1))


def other_index(file: Path) -> None:
    """The other one of the two places that hold a key."""
    content = file.read_bytes()
    with closing(sqlite3.connect(file)) as connection:
        ((key,),) = connection.execute("SELECT key FROM unnamed LIMIT 1")
    start, end = content.rsplit(key.encode(), 1)
    file.write_bytes(start + key[:-1].encode() + b"g" + end)


def bytes_for_text(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE unnamed SET value = CAST(value AS BLOB)")
        connection.commit()


def number_for_text(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE unnamed SET value = 3.5")
        connection.commit()


@pytest.mark.parametrize("damage", [other_key, other_index, bytes_for_text, number_for_text])
def test_no_answer_is_lost_without_a_word(damage: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "answers.sqlite"
    answers = Responses(file, task="sums")
    answers.add_partial("loglikelihood", ("a", "b"), (-0.25, True))
    answers.close(finished=False)
    Responses(file, task="sums").close(finished=False)
    assert not caplog.messages
    damage(file)
    again = Responses(file, task="sums")
    assert "is damaged: what it held is asked again" in caplog.text and not list(again.dbdict)
    again.close(finished=False)


def test_nothing_in_the_file_is_pickled(tmp_path: Path) -> None:
    file = tmp_path / "answers.sqlite"
    answers = Responses(file, task="sums")
    answers.batch_ended([False, True])
    for prompt in ("a", "b"):
        answers.add_partial("generate_until", (prompt, {}), prompt * 2)
    answers.add_partial("loglikelihood", ("a", "b"), (-0.25, True))
    answers.close(finished=False)
    with closing(sqlite3.connect(file)) as connection:
        values = [json.loads(value[33:]) for (value,) in connection.execute("SELECT value FROM unnamed")]
    assert sorted(map(repr, values)) == ["'aa'", "'bb'", "False", "True", "[-0.25, True]"]
    again = Responses(file, task="sums")
    assert [again.ended(prompt, {}) for prompt in ("a", "b", "c")] == [False, True, True]
    again.close(finished=True)
    assert not file.exists()


def test_no_connection_is_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "answers.sqlite"
    Responses(file, task="sums").close(finished=False)
    opened = []
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *given: opened.append(connect(*given)) or opened[-1])
    assert responses._is_whole(file)
    (checked,) = opened
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        checked.execute("SELECT 1")


def test_what_is_not_committed_is_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "answers.sqlite"
    answers = Responses(file, task="sums")
    answers.add_partial("loglikelihood", ("a", "b"), (-1.0, True))
    answers.batch_begins()
    answers.add_partial("loglikelihood", ("c", "d"), (-2.0, True))
    answers.dbdict.close(do_log=False, force=True)  # as a killed process leaves it
    assert len(Responses(file, task="sums").dbdict) == 1


def written(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, **generation: object) -> Any:
    """Item to its response and whether it ended, and the score that counts those that did not."""
    options = benchmark(batch_size=3, generation=generation)
    found = score_task(model, tokenizer, sums(folder, ITEMS), options, stage="base", context=64)
    (score,) = [score.value for score in found.scores if score.metric == "unfinished"]
    return {row["id"]: (row["response"], row["ended"]) for row in found.samples}, score


def test_answers_that_never_end_are_bounded_and_counted(tmp_path: Path) -> None:
    model, tokenizer = small_llama()
    model.generation_config.suppress_tokens = [tokenizer.eos_token_id]
    rows, unfinished = written(tmp_path, model, tokenizer, max_gen_toks=12)
    assert unfinished == 1.0 and not any(ended for _, ended in rows.values())
    assert len({response for response, _ in rows.values()}) > 1
    stop = rows[0][0][2]
    expected = {number: stop in response for number, (response, _) in rows.items()}
    stopped, unfinished = written(tmp_path, model, tokenizer, max_gen_toks=12, until=[stop])
    assert {number: ended for number, (_, ended) in stopped.items()} == expected
    assert unfinished == pytest.approx(1 - sum(expected.values()) / len(ITEMS))


@pytest.mark.parametrize("several", [False, True])
def test_any_of_its_last_tokens_ends_an_answer(several: bool, tmp_path: Path) -> None:
    model, tokenizer = small_llama()
    model.generation_config.suppress_tokens = [tokenizer.eos_token_id]
    asked = tokenizer(ITEMS[0].instruction, return_tensors="pt")["input_ids"]
    last = model.generate(asked, max_new_tokens=3, do_sample=False)[0, -1].item()
    alone = {}
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, last] if several else last
    for number, item in enumerate(ITEMS):
        ids = tokenizer(item.instruction, return_tensors="pt")["input_ids"]
        answer = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
        alone[number] = last in answer.tolist()
    rows, unfinished = written(tmp_path, model, tokenizer, max_gen_toks=12)
    assert {number: ended for number, (_, ended) in rows.items()} == alone
    assert alone[0] and unfinished < 1
