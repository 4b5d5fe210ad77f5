"""General text; oracles: files of a few words, streams cut by eye, and the laws of cutting."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pydantic import ValidationError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from spectral_ft.compose import register
from spectral_ft.configuration import CONF
from spectral_ft.data.dataset import HubSplit
from spectral_ft.data.general_text import GeneralText, NoText, text_rows
from spectral_ft.data.wordmath import FRAMES, split_of_pair
from spectral_ft.errors import CheckpointError, ConfigError, DataError, HubError
from tests.conftest import EMBEDDED, REPOSITORY
from tests.oracles import law

HUB = HubSplit(id="some/text", name="raw", split="test")
END = 2


class Digits:
    """A tokenizer: a digit is a token, nothing is added."""

    eos_token_id: int | None = END

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [10 + int(digit) for digit in text if digit.isdigit()]}


DIGITS = cast(PreTrainedTokenizerBase, Digits())


def general(path: Path | str | None = None, **options: Any) -> GeneralText:
    defaults = {"hub": None, "column": "text", "join": True, "max_tokens": 100, "sequence_length": 8}
    return GeneralText(path=None if path is None else str(path), **cast(Any, defaults | options))


def written(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_bytes(content.encode())
    return folder / name


def ids(rows: list[dict[str, Any]]) -> list[list[int]]:
    return [row["input_ids"] for row in rows]


def test_blank_lines_part_the_documents_of_a_text(tmp_path: Path) -> None:
    text = written(tmp_path, "a.txt", "\n\none\nstill one\n\n\n  two\r\n \t\r\nthree\n")
    assert general(text).documents() == ["one\nstill one", "  two", "three"]


def test_a_row_is_a_document(tmp_path: Path) -> None:
    rows = [{"text": "one\n\nstill one", "body": "1"}, {"text": "  ", "body": "2"}, {"text": "two", "body": "3"}]
    lines = written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    whole = written(tmp_path, "a.json", json.dumps(rows))
    assert general(lines).documents() == general(whole).documents() == ["one\n\nstill one", "two"]
    assert general(lines, column="body").documents() == ["1", "2", "3"]


def test_the_hub_is_asked_for_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(dataset: str, **options: Any) -> list[dict[str, Any]]:
        asked.update(options, dataset=dataset)
        return [{"text": "one"}, {"text": ""}]

    monkeypatch.setattr("spectral_ft.hub.download_rows", download)
    assert general(hub=HUB).documents() == ["one"]
    general(hub=HUB).check_source()
    assert asked == {"dataset": "some/text", "name": "raw", "split": "test", "override": "general_text.path=FILE"}


def test_a_file_is_used_instead_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("spectral_ft.hub.download_rows")
    own = general(written(tmp_path, "a.txt", "one"), hub=HUB)
    own.check_source()
    assert own.documents() == ["one"]


def test_the_hub_out_of_reach_names_the_way_out() -> None:
    with pytest.raises(HubError, match=r"some/text.*general_text\.path=FILE"):
        general(hub=HUB).documents()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", " \n\n \n", r"a\.txt holds 0 documents that are not blank"),
        ("a.jsonl", "", r"a\.jsonl is empty"),
        ("a.jsonl", '{"text": " "}', r"a\.jsonl holds 0 documents"),
        ("a.jsonl", '{"text": "one"}\n{"body": "two", "id": 2}', r"row 2: no column 'text'; its columns are body, id"),
        ("a.json", '[{"text": 5}]', r"row 1: column 'text' holds 5 .*not a text\. Set general_text\.column"),
    ],
)
def test_what_a_file_lacks_is_named(name: str, content: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told):
        general(written(tmp_path, name, content)).documents()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    missing = general(tmp_path / "gone.txt")
    for look in (missing.check_source, missing.documents):
        with pytest.raises(DataError, match=r"general_text\.path=.*gone\.txt is no file: give a file in \.txt"):
            look()


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"a\.txt cannot be read: .*'utf-8'"):
        general(tmp_path / "a.txt").documents()


def test_a_text_needs_a_source_of_a_known_kind() -> None:
    with pytest.raises(ConfigError, match=r"no source: give general_text\.path=FILE, or general_text=none"):
        general()
    with pytest.raises(ConfigError, match=r"general_text\.path=a\.pdf ends in '\.pdf': give a file in \.txt"):
        general("a.pdf")


@pytest.mark.parametrize("option", [{"max_tokens": 1}, {"sequence_length": 1}, {"join": "yes"}, {"colum": "text"}])
def test_options_are_checked(option: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(option))):
        general("a.txt", **option)


def test_joined_documents_are_one_stream_in_pieces() -> None:
    rows = text_rows(["123", "45"], DIGITS, join=True, sequence_length=3, max_tokens=100)
    assert ids(rows) == [[11, 12, 13], [END, 14, 15]]  # the last piece is one end token, which nothing predicts
    assert all(row["labels"] == row["input_ids"] and row["labels"] is not row["input_ids"] for row in rows)
    assert all(row.keys() == {"input_ids", "labels"} for row in rows)


def test_documents_apart_are_pieces_of_their_own() -> None:
    rows = text_rows(["1234", "5", "67"], DIGITS, join=False, sequence_length=3, max_tokens=100)
    assert ids(rows) == [[11, 12, 13], [14, END], [15, END], [16, 17, END]]


@pytest.mark.parametrize("join", [True, False])
def test_what_is_beyond_the_most_tokens_is_not_read(join: bool) -> None:
    class Watched(Digits):
        asked = 0

        def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
            self.asked += text.isdigit()  # the documents
            return super().__call__(text)

    tokenizer = Watched()
    rows = text_rows(
        ["123", "456", "789"], cast(PreTrainedTokenizerBase, tokenizer), join=join, sequence_length=4, max_tokens=6
    )
    assert ids(rows) == [[11, 12, 13, END], [14, 15]]
    assert tokenizer.asked == 2


@given(
    documents=st.lists(st.text("0123456789", max_size=9), min_size=1, max_size=6),
    join=st.booleans(),
    sequence_length=st.integers(2, 7),
    max_tokens=st.integers(2, 40),
)
@law
def test_nothing_is_lost_but_pieces_of_one_token(
    documents: list[str], join: bool, sequence_length: int, max_tokens: int
) -> None:
    stream = [token for text in documents for token in (*(10 + int(digit) for digit in text), END)][:max_tokens]
    try:
        rows = text_rows(documents, DIGITS, join=join, sequence_length=sequence_length, max_tokens=max_tokens)
    except DataError:
        assert len(stream) == 1 or not any(documents)
        return
    pieces = ids(rows)
    assert all(2 <= len(piece) <= sequence_length for piece in pieces)
    if join:
        read = [token for piece in pieces for token in piece]
        assert read == stream[: len(read)] and len(stream) - len(read) <= 1
        assert all(len(piece) == sequence_length for piece in pieces[:-1])
    else:
        assert all(END not in piece[:-1] for piece in pieces)
        assert sum(map(len, pieces)) <= len(stream)


def test_marks_of_the_tokenizer_stay_and_the_end_is_set_once() -> None:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)

    class Ending(Digits):
        def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
            return {"input_ids": [*super().__call__(text)["input_ids"], END]}

    (row,) = text_rows(["1+2=3"], tokenizer, join=True, sequence_length=20, max_tokens=20)
    assert tokenizer.convert_ids_to_tokens(row["input_ids"])[0] == "<bos>"
    assert tokenizer.convert_ids_to_tokens(row["input_ids"])[-1] == "<eos>"
    ending = cast(PreTrainedTokenizerBase, Ending())
    assert ids(text_rows(["12"], ending, join=True, sequence_length=9, max_tokens=9)) == [[11, 12, END]]


def test_a_text_too_short_and_a_tokenizer_without_end() -> None:
    with pytest.raises(DataError, match=r"1 documents make no sequence of 2 tokens or more: give more text"):
        text_rows(["-"], DIGITS, join=True, sequence_length=4, max_tokens=9)
    endless = Digits()
    endless.eos_token_id = None
    with pytest.raises(CheckpointError, match=r"needs a tokenizer with an end token.*general_text=none"):
        text_rows(["1"], cast(PreTrainedTokenizerBase, endless), join=True, sequence_length=4, max_tokens=9)


def test_rows_follow_the_options(tmp_path: Path) -> None:
    file = written(tmp_path, "a.txt", "123\n\n45")
    assert ids(general(file, sequence_length=3).rows(DIGITS)) == [[11, 12, 13], [END, 14, 15]]
    assert ids(general(file, join=False, max_tokens=5).rows(DIGITS)) == [[11, 12, 13, END]]


def test_no_text_gives_nothing() -> None:
    none = NoText()
    none.check_source()
    assert none.documents() == none.rows(DIGITS) == []


@pytest.mark.parametrize("choice", ["none", "embedded", "file", "wikitext"])
def test_every_choice_builds_with_every_option_told(choice: str) -> None:
    register()
    config = OmegaConf.load(CONF / "general_text" / f"{choice}.yaml")
    if choice == "file":
        assert OmegaConf.missing_keys(config) == {"path"}
        config.path = "own.txt"
    built = instantiate(config, _convert_="all")
    assert isinstance(built, NoText if choice == "none" else GeneralText)
    assert set(config) - {"_target_"} == set(type(built).__dataclass_fields__)


def test_the_shipped_text_is_what_its_script_writes(tmp_path: Path) -> None:
    script = REPOSITORY / "experiments" / "tiny_model" / "general_text.py"
    again = tmp_path / "general.txt"
    subprocess.run(
        [sys.executable, str(script), "--out", str(again)],
        check=True,
        timeout=60,
        env={"PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": "3"},
    )
    shipped = (EMBEDDED / "general.txt").read_bytes()
    assert again.read_bytes() == shipped
    assert len(shipped) <= 30_000


def test_the_embedded_model_reads_the_shipped_text_whole() -> None:
    register()
    text = instantiate(OmegaConf.load(CONF / "general_text" / "embedded.yaml"), _convert_="all")
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    rows = text.rows(tokenizer)
    assert len(rows) == len(text.documents()) == len(set(text.documents())) == 200
    assert sum(len(row["input_ids"]) for row in rows) == 5117
    assert not any(tokenizer.unk_token_id in row["input_ids"] for row in rows)


def test_questions_of_the_shipped_text_have_held_out_operands() -> None:

    documents = general(EMBEDDED / "general.txt").documents()
    single = [re.findall(r"(\d{2})([+-])(\d{2})=(\d{2})", text) for text in documents]
    steps = [found[0] for found in single if len(found) == 1]
    pairs = [(int(a), int(b)) if sign == "+" else (int(b), int(c)) for a, sign, b, c in steps]
    assert len(pairs) > 60
    assert {split_of_pair(*pair) for pair in pairs} == {"test"}
    frames = [re.compile(re.sub(r"\\{\w+\\}", r"\\w+", re.escape(frame))) for frame in FRAMES]
    assert not [text for text in documents if any(frame.search(text) for frame in frames)]


def test_the_options_are_read_without_torch() -> None:
    code = "import sys, spectral_ft.data.general_text; print('torch' in sys.modules, 'transformers' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]
