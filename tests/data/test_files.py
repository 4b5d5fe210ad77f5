"""Oracle: files that are damaged here in one way each."""

import json

import pytest

from spectral_ft.data.files import find_file, read_rows, to_items
from spectral_ft.data.rows import Item, boolq, gsm8k
from spectral_ft.errors import DataError

ROWS = [{"a": 1}, {"a": "two lines\u2028in one row"}]


def written(tmp_path, name, content):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path / name


def test_the_first_name_that_is_there_is_taken(tmp_path):
    for name in ("b.json", "c.json"):
        written(tmp_path, name, "")
    assert find_file(tmp_path, ["a.json", "b.json", "c.json"], option="dataset.data_dir") == tmp_path / "b.json"


def test_a_file_is_taken_whatever_its_name(tmp_path):
    path = written(tmp_path, "mine.jsonl", "")
    assert find_file(path, ["a.json"], option="dataset.data_dir") == path


def test_a_missing_folder_is_named_with_its_option(tmp_path):
    with pytest.raises(DataError, match=r"dataset\.data_dir=.*nowhere does not exist"):
        find_file(tmp_path / "nowhere", ["a.json"], option="dataset.data_dir")


@pytest.mark.parametrize(("there", "listed"), [(["y.txt", "x.txt"], r"x\.txt, y\.txt"), ([], "nothing")])
def test_a_folder_without_the_file_says_what_it_holds(tmp_path, there, listed):
    for name in there:
        written(tmp_path, name, "")
    with pytest.raises(DataError, match=rf"holds none of a\.json, b\.json\. It holds {listed}\."):
        find_file(tmp_path, ["a.json", "b.json"], option="dataset.data_dir")


def test_both_forms_hold_the_same_rows(tmp_path):
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    assert read_rows(written(tmp_path, "r.jsonl", lines + "\n\n")) == ROWS
    assert read_rows(written(tmp_path, "r.json", json.dumps(ROWS))) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.jsonl", " \n", "is empty"),
        ("r.json", b"[\xff]", "cannot be read: .*utf-8"),
        ("r.jsonl", '{"a": 1}\n\n{"a": ', r"r\.jsonl, line 3: not a JSON object .*is it truncated"),
        ("r.json", '[{"a": 1}, {"a"', r"r\.json is not valid JSON .*is it truncated"),
        ("r.json", '{"a": 1}', "holds no list of objects"),
        ("r.json", "[]", "holds no list of objects"),
        ("r.json", '[{"a": 1}, 2]', r"row 2: expected an object with columns, found int"),
        ("r.jsonl", '{"a": 1}\n["a"]\n', r"row 2: expected an object with columns, found list"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read_rows(written(tmp_path, name, content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"r\.json cannot be read"):
        read_rows(tmp_path / "r.json")


def test_every_row_becomes_an_item():
    found = to_items([{"question": f"{n}?", "answer": n % 2 == 0} for n in range(3)], boolq, source="f")
    assert [item.answer for item in found] == ["true", "false", "true"]
    assert all(isinstance(item, Item) for item in found)


def test_a_missing_column_is_named_with_its_row():
    rows = [{"question": "q", "answer": "#### 1"}, {"question": "q", "reply": "#### 1"}]
    with pytest.raises(DataError, match=r"f, row 2: no column 'answer'; its columns are question, reply"):
        to_items(rows, gsm8k, source="f")


def test_unexpected_content_is_named_with_its_row():
    with pytest.raises(DataError, match=r"f, row 1: unexpected content \(.*NoneType"):
        to_items([{"question": "q", "answer": None}], gsm8k, source="f")
