"""Oracle: rows that a resumed training writes again."""

import json

from spectral_ft.tracking.json_lines import JsonLines


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


def test_a_line_that_was_cut_is_dropped_with_a_warning(tmp_path, caplog):
    (tmp_path / "train.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    JsonLines(tmp_path / "train.jsonl").log({"step": 3})
    assert rows(tmp_path) == [{"step": 1}, {"step": 3}]
    assert "dropping a line that was cut" in caplog.text
