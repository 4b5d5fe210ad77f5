"""The page of `make bench-evaluation`; oracle: sides and rows written by hand."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "bench"))

import evaluation

SHARED = {"model": "models/small", "data": "data", "dtype": "float32", "folder": "x"}


def side(*, answers, wrong=()):
    """What a side says of 200 items, each read by two rules; `wrong` are judgements that it alone makes."""
    right = {f"{item} {rule}": float(f"{item} {rule}" in wrong) for item in range(200) for rule in ("one", "two")}
    return {"answers": answers, "right": right, "scores": {"one": 0.5}, "cpu": 50.0, "wall": 80.0}


def test_answers_are_counted_by_item_and_judgements_by_rule(monkeypatch):
    answers = {str(item): "yes" for item in range(200)}
    sides = {"ours": side(answers=answers | {"7": "no"}, wrong={"7 one"}), "bare": side(answers=answers)}
    monkeypatch.setattr(evaluation, "child", lambda **job: sides[job["side"]])
    row = evaluation.parity("gsm8k", items=200, batch=16, tokens=48, **SHARED)
    assert (row["answers_alike"], row["answers"], row["judged_alike"], row["judged"]) == (199, 200, 399, 400)
    assert "| 199 of 200 | 399 of 400 | 50 | 50 | 1.00 | 1.00 |" in evaluation.page({"parity gsm8k": row})


def test_a_rate_is_said_to_be_of_cpu_seconds(monkeypatch):
    monkeypatch.setattr(
        evaluation, "child", lambda **job: {"batch": 32, "cpu": 100.0 if job["batch"] else 40.0, "wall": 400.0}
    )
    monkeypatch.setitem(evaluation.FEW, "gsm8k", 8)
    page = evaluation.page({"batch gsm8k": evaluation.batches("gsm8k", **SHARED)})
    heading, row = (line for line in page.splitlines() if "batch that was found" in line or line.startswith("| gsm8k"))
    assert "items a CPU second, one at a time | found | ratio" in heading
    assert row.split(" | ")[3:] == ["0.08", "0.20", "2.5 |"]
    assert "items/s" not in page and "takes turns" in page
