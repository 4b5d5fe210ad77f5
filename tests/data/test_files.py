"""Oracle: files that are damaged here in one way each."""

import bz2
import csv
import functools
import gzip
import io
import json
import lzma
import tracemalloc

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.data import rows
from spectral_ft.data.files import find_file, iterate_rows, read_rows, to_items
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
        ("r.json", '[{"a": 1}, {"a"', r"r\.json, line 1: .*is it truncated"),
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
    with pytest.raises(DataError, match=r"f, row 1: unexpected content \(column 'answer' .*null"):
        to_items([{"question": "q", "answer": None}], gsm8k, source="f")


TWO = [{"instruction": "Grüße?", "output": "2"}, {"instruction": 'He said "a,b"\nand left', "output": "ü"}]


def as_json_lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def as_csv(rows, separator=","):
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def as_parquet(rows):
    file = io.BytesIO()
    pandas.DataFrame(rows).to_parquet(file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.JSONL", as_json_lines(TWO)),
        ("r.ndjson", as_json_lines(TWO).replace("\n", "\r\n")),
        ("r.json", as_json_lines(TWO)),
        ("r.json", "".join(json.dumps(row, indent=2) + "\n" for row in TWO)),
        ("r.jsonl", json.dumps(TWO)),
        ("r.jsonl", "\ufeff" + as_json_lines(TWO)),
        ("r.json", json.dumps(TWO, ensure_ascii=False).encode("utf-16")),
        ("r.jsonl", as_json_lines(TWO).encode("utf-16-be")),
        ("r.jsonl", as_json_lines(TWO).encode("utf-32")),
        ("r.csv", as_csv(TWO)),
        ("r.CSV", as_csv(TWO).encode("utf-8-sig")),
        ("r.csv", as_csv(TWO).encode("utf-16")),
        ("r.parquet", as_parquet(TWO)),
        ("r.jsonl.gz", gzip.compress(as_json_lines(TWO).encode(), mtime=0)),
        ("r.json.gz", gzip.compress(json.dumps(TWO).encode(), mtime=0)),
        ("r.csv.GZ", gzip.compress(as_csv(TWO).encode("utf-8-sig"), mtime=0)),
        ("r.jsonl", gzip.compress(as_json_lines(TWO).encode(), mtime=0)),
        ("r.jsonl.bz2", bz2.compress(as_json_lines(TWO).encode())),
        ("r.csv.xz", lzma.compress(as_csv(TWO).encode("utf-16"))),
        ("r.json", as_parquet(TWO)),
        ("r", as_json_lines(TWO)),
    ],
)
def test_one_table_is_read_in_every_format(tmp_path, name, content):
    assert read_rows(written(tmp_path, name, content)) == TWO


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("r.xlsx", b"PK\x03\x04rest", ["Excel", ".csv"]),
        ("r.jsonl", b"PK\x03\x04rest", ["ZIP"]),
        ("r.jsonl.zst", b"\x28\xb5\x2f\xfdrest", ["Zstandard"]),
        ("r.arrow", b"ARROW1\0\0", ["Arrow"]),
        ("r.pkl", b"\x80\x04\x95rest", ["pickle"]),
        ("r.txt", "What is 2?\n", [".txt", ".jsonl"]),
        ("r.parquet", "instruction,output\n", ["parquet"]),
        ("r.parquet", as_parquet(TWO)[:-20], ["parquet", "truncated"]),
        ("r.jsonl.gz", gzip.compress(as_json_lines(TWO).encode(), mtime=0)[:-9], ["truncated"]),
        ("r.csv", "a;b\n1;2\n", ["';'", "commas"]),
        ("r.csv", "a,b\n1,2,3\n", ["line 2", "3 cells"]),
        ("r.csv", 'a,b\n1,"2\n', ["line 2", "quote"]),
        ("r.csv", "a,a\n1,2\n", ["'a'", "rename"]),
        ("r.csv", "a,b\n", ["no list of objects"]),
        ("r.csv", "", ["is empty"]),
        ("r.csv", "caf\xe9,b\n1,2\n".encode("latin-1"), ["UTF-8"]),
        ("r.jsonl", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", ["line 1", "nested too deeply"]),
        ("r.json", "[" * 100_000 + "]" * 100_000, ["nested too deeply"]),
        ("r.jsonl", '{"a": 1}\n{"a": ' + "9" * 5000 + "}", ["line 2", "digits"]),
        ("r.json", '{"data": [{"a": 1}]}', ["one object with data", "'data'"]),
        ("r.json", '[{"a": 1}]\n[{"a": 2}]', ["line 2", "something follows"]),
        ("r.json", '[{"a": 1},\n {"a": 2},\n]', ["line 3"]),
        ("r.json", '[{"a": 1}\n {"a": 2}]', ["line 2", "comma"]),
    ],
)
def test_another_format_is_named(tmp_path, name, content, words):
    with pytest.raises(DataError) as error:
        read_rows(written(tmp_path, name, content))
    assert all(word in str(error.value) for word in (name, *words)), error.value


def test_rows_that_lie_across_the_pieces_that_are_read_are_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("spectral_ft.data.files.CHUNK", 7)
    rows = [{"n": n, "text": 'é\\"' * n, "list": [{"a": None}] * n} for n in range(1, 12)]
    for name, content in (("r.jsonl", as_json_lines(rows)), ("r.json", json.dumps(rows, indent=3))):
        assert read_rows(written(tmp_path, name, content)) == rows
    with pytest.raises(DataError, match="line 2"):
        read_rows(written(tmp_path, "s.jsonl", json.dumps(rows[9]) + '\n{"a": tru, "b": "a long text behind it"}\n'))


def test_one_row_that_never_ends_is_refused_before_it_is_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("spectral_ft.data.files.CHUNK", 100)
    monkeypatch.setattr("spectral_ft.data.files.LARGEST_ROW", 1_000)
    for content in (json.dumps({"text": "a" * 5_000}), json.dumps([{"list": ["b"] * 5_000}])):
        with pytest.raises(DataError, match=r"line 1: one row has more than 1,000 characters"):
            read_rows(written(tmp_path, "r.json", content))
    assert len(read_rows(written(tmp_path, "r.json", json.dumps([{"text": "a" * 500}] * 50)))) == 50


def test_a_large_file_on_one_line_is_read_row_by_row(tmp_path):
    path = written(tmp_path, "r.json", json.dumps([{"text": f"{n} " * 40} for n in range(20_000)]))
    tracemalloc.start()
    assert sum(1 for _ in iterate_rows(path)) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 3 * 2**20 and peak < 2 * path.stat().st_size  # the pieces, not the rows


@pytest.mark.parametrize("there", ["train.csv", "TRAIN.jsonl", "train.json.gz", "train.parquet"])
def test_a_name_stands_for_every_format(tmp_path, there):
    written(tmp_path, there, "")
    written(tmp_path, "train.txt", "")
    assert find_file(tmp_path, ["train.jsonl", "train.json"], option="dataset.data_dir").name == there


def test_two_formats_of_one_name_are_not_guessed_between(tmp_path):
    written(tmp_path, "train.csv", "")
    written(tmp_path, "train.parquet", "")
    with pytest.raises(DataError, match=r"train\.csv and train\.parquet.*dataset\.data_dir=FILE"):
        find_file(tmp_path, ["train.jsonl"], option="dataset.data_dir")
    written(tmp_path, "train.jsonl", "")
    assert find_file(tmp_path, ["train.jsonl"], option="dataset.data_dir").name == "train.jsonl"


def items_of(row, recipe=rows.instruction):
    return to_items([{"instruction": "i", "output": "o"}, row], recipe, source="f.jsonl")


@pytest.mark.parametrize(
    ("column", "value"),
    [("system", "Be brief."), ("history", [["hi", "hello"]]), ("label", 0), ("meta", {"a": 1}), ("tools", [{"a": 1}])],
)
def test_a_column_that_nothing_reads_is_named_with_both_ways_out(column, value):
    row = {"instruction": "i", "output": "o", column: value}
    with pytest.raises(DataError) as error:
        items_of(row)
    for word in ("f.jsonl, row 2", repr(column), "dataset.rows.instruction", f"dataset.rows.ignore=[{column}]"):
        assert word in str(error.value)
    ignoring = functools.partial(rows.instruction, ignore=[column])
    assert items_of(row, ignoring)[1] == Item("i", "o", "")


@pytest.mark.parametrize("empty", [None, "", "  ", [], {}, float("nan")])
def test_an_empty_column_that_nothing_reads_does_not_matter(empty):
    row = {"instruction": "i", "output": "o", "input": empty, "system": empty, "id": 7, "idx": "x"}
    assert items_of(row)[1] == Item("i", "o", "")


CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
SHARE = [{"from": "human", "value": "hi"}]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, ["null"]),
        (float("nan"), ["NaN"]),
        (float("-inf"), ["inf"]),
        (["x"], ["a list of 1"]),
        ({"a": 1}, ["an object with a"]),
        (True, ["true"]),
        (b"x", ["bytes"]),
        (CHAT, ["chat of 2 messages", "'role'"]),
        (SHARE, ["chat of 1 messages", "'from'"]),
        ("a\ud83d", ["\\ud83d", "letter 2"]),
        ("\udc00 b", ["\\udc00", "letter 1"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("column", ["instruction", "output", "answer"])
def test_what_is_no_text_is_refused_with_file_row_and_column(value, words, column):
    if column == "answer" and (value is None or value != value):
        assert items_of({"instruction": "i", "output": "o", "answer": value})[1].answer == ""
        return
    with pytest.raises(DataError) as error:
        items_of({"instruction": "i", "output": "o", column: value})
    assert all(word in str(error.value) for word in ("f.jsonl, row 2", repr(column), *words)), error.value


@pytest.mark.parametrize("row", [{"messages": CHAT}, {"conversations": SHARE, "id": 1}])
def test_a_chat_in_the_place_of_columns_is_recognised(row):
    with pytest.raises(DataError, match=f"no column 'instruction'.*{next(iter(row))!r} holds a chat of"):
        items_of(row)


@pytest.mark.parametrize("recipe", [lambda row: Item("i", 5, ""), lambda row: Item("i", "o", None)])
def test_a_recipe_that_gives_no_text_is_named(recipe):
    with pytest.raises(DataError, match=r"f\.jsonl, row 1: the recipe gives (completion=5|answer=None)"):
        items_of({}, recipe)
