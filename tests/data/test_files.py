"""Oracle: files that are damaged here in one way each."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.data.files import find_file, read_rows, to_items
from spectral_ft.data.rows import Item, boolq, gsm8k
from spectral_ft.errors import DataError
from tests.oracles import law

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
        (
            "r.tsv",
            "text\tlabel\na\t1\n\nb",
            r"r\.tsv, line 4: 1 cells where the first line has 2; is it truncated",
        ),
        ("r.tsv", "a\t1\nb\tc\t0", r"r\.tsv, line 2: 3 cells where the first line has 2"),
        ("r.tsv", "text\tlabel\n", "holds no list of objects"),
        ("r.tsv", "\n", "is empty"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read_rows(written(tmp_path, name, content))


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ('sentence\tlabel\na film \t0\n\n"quoted\t1\n', [("sentence", "label"), ("a film", "0"), ('"quoted', "1")]),
        ("a film\t0\nanother\t-1\n", [("0", "1"), ("a film", "0"), ("another", "-1")]),
        ("0.5\ta\n", [("0", "1"), ("0.5", "a")]),
        ("2 films\tlabel\nx\ty", [("2 films", "label"), ("x", "y")]),
    ],
    ids=["names", "no names", "a number first", "a name with a digit"],
)
def test_tab_separated_columns_are_called_by_their_names_or_numbers(tmp_path, content, rows):
    names, *cells = rows
    assert read_rows(written(tmp_path, "r.tsv", content)) == [dict(zip(names, row, strict=True)) for row in cells]


@law
@given(
    st.lists(
        st.tuples(st.text(alphabet="ab \u2028\x85", min_size=1).filter(str.strip), st.integers(-1, 3).map(str)),
        min_size=1,
    )
)
def test_what_is_written_as_tab_separated_lines_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("tsv") / "r.tsv"
    path.write_text("\n".join("\t".join(row) for row in rows), encoding="utf-8")
    assert [tuple(row.values()) for row in read_rows(path)] == [(text.strip(), label) for text, label in rows]


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
