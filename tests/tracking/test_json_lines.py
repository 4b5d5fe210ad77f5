"""Oracle: rows that a resumed training writes again."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.tracking.json_lines import JsonLines
from tests.oracles import law


def rows(folder):
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def test_rows_are_lines_in_order(tmp_path):
    log = JsonLines(tmp_path / "train.jsonl")
    for step in (1, 2, 3):
        log.log({"step": step, "loss": 1 / step})
    assert rows(tmp_path) == [{"step": step, "loss": 1 / step} for step in (1, 2, 3)]


def test_a_resumed_training_replaces_the_rows_beyond_its_checkpoint(tmp_path):
    for step in (1, 2, 3):
        JsonLines(tmp_path / "train.jsonl").log({"step": step, "loss": 1.0})
    JsonLines(tmp_path / "train.jsonl").log({"step": 2, "loss": 0.5})
    assert rows(tmp_path) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]


def test_the_rows_of_one_step_stay_where_they_say_different_things(tmp_path):
    first, second = {"step": 1, "loss": 1.0, "seconds": 1.0}, {"step": 1, "validation_loss": 2.0, "seconds": 2.0}
    log = JsonLines(tmp_path / "train.jsonl")
    for row in (first, second, {**first, "loss": 3.0}):
        log.log(row)
    assert rows(tmp_path) == [second, {**first, "loss": 3.0}]


@law
@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["loss", "validation_loss"]), st.booleans()), max_size=12))
def test_whatever_comes_the_file_has_what_reading_it_anew_each_time_would_leave(written):
    """Oracle: the rule itself on a list; a third of each tuple says whether the training was cut before the row."""
    with TemporaryDirectory() as folder:
        path, expected = Path(folder) / "train.jsonl", []
        log = JsonLines(path)
        for number, (step, name, cut) in enumerate(written):
            if cut:
                with path.open("a") as file:
                    file.write('{"step": 9, "lo')
                log = JsonLines(path)
            log.log({"step": step, name: number})
            expected = [row for row in expected if row["step"] < step or (row["step"] == step and name not in row)]
            expected.append({"step": step, name: number})
            assert rows(Path(folder)) == expected


def test_a_long_log_is_read_once(tmp_path, monkeypatch):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(50)))
    whole, reads = Path.read_text, []
    monkeypatch.setattr(Path, "read_text", lambda self, **options: reads.append(self) or whole(self, **options))
    log, node = JsonLines(path), path.stat().st_ino
    for step in range(50, 100):
        log.log({"step": step, "loss": 1.0})
        log.log({"step": step, "validation_loss": 1.0})
    assert reads == [path] and path.stat().st_ino == node  # nor written anew
    monkeypatch.undo()
    assert [row["step"] for row in rows(tmp_path)] == [*range(50), *sorted([*range(50, 100)] * 2)]


@pytest.mark.parametrize("line", ["[1]", "7", "null", '{"loss": 1}', '{"step": "two"}', '{"step": null}', "\x00"])
def test_a_line_that_is_no_row_is_dropped_with_a_warning(tmp_path, caplog, line):
    (tmp_path / "train.jsonl").write_text(f'{{"step": 1}}\n{line}\n')
    JsonLines(tmp_path / "train.jsonl").log({"step": 2})
    assert rows(tmp_path) == [{"step": 1}, {"step": 2}] and "dropping a line" in caplog.text


def test_a_line_that_was_cut_is_dropped_with_a_warning(tmp_path, caplog):
    (tmp_path / "train.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    JsonLines(tmp_path / "train.jsonl").log({"step": 3})
    assert rows(tmp_path) == [{"step": 1}, {"step": 3}]
    assert "dropping a line that was cut" in caplog.text
