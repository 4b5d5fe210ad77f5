"""Stored answers read again; oracles: rules applied by eye, bytes before and after."""

import json
from pathlib import Path

import filelock
import pytest

from spectral_ft.errors import DataError, RunError
from spectral_ft.run_folder import claimed, mark_started
from spectral_ft.stages.rescoring import rescored
from spectral_ft.storage import read_json, write_json, write_jsonl
from tests.oracles import score
from tests.test_compose import built

EXPERIMENT = built()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two tasks of two stages, of which one is right in half of its answers, and one is scored by likelihoods."""
    folder = tmp_path / "source"
    stages = ("base", "tuned")
    rows = [
        {"stage": stage, "id": n, "prompt_hash": "x", "response": f"the answer is {n + (stage == 'base') * (n % 2)}"}
        | {"ended": True, "log_likelihoods": None, "extractor": "strict", "extracted": "", "gold": str(n)}
        | {"metrics": {"exact_match": 1.0}}
        for stage in stages
        for n in range(4)
    ]
    write_jsonl(folder / "samples" / "sums.jsonl", rows)
    write_jsonl(folder / "samples" / "arc.jsonl", [row | {"response": None} for row in rows])
    write_json(
        folder / "scores.json", tuple(score(task, 1.0, stage=s, n=4) for s in stages for task in ("sums", "arc"))
    )
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    beside = {".lock", "manifest.json"}  # a manifest also remembers what a file held before
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name not in beside}


def test_a_second_call_leaves_what_the_first_one_did(source: Path, tmp_path: Path) -> None:
    before, folder = contents(source), tmp_path / "again"
    first = rescored(EXPERIMENT, source, folder)
    assert {(one.task, one.stage, one.extractor): one.value for one in first} == {
        ("sums", "base", "strict"): 1.0, ("sums", "tuned", "strict"): 1.0,
        ("sums", "base", "paper_number"): 0.5, ("sums", "tuned", "paper_number"): 1.0,
        ("sums", "base", "strict_number"): 0.5, ("sums", "tuned", "strict_number"): 1.0,
    }  # fmt: skip
    once = contents(folder)
    assert rescored(EXPERIMENT, source, folder) == first
    assert contents(folder) == once and contents(source) == before
    assert len(read_json(folder / "scores.json", list)) == len(first) == 6
    assert len((folder / "samples" / "sums.jsonl").read_text().splitlines()) == 3 * 2 * 4


def test_the_source_is_never_written_to(source: Path) -> None:
    before = contents(source)
    with pytest.raises(RunError, match=r"rescore=.*source is the folder that the scores would be written to: give"):
        rescored(EXPERIMENT, source, source.parent / "source" / ".." / "source")
    assert contents(source) == before and not (source / ".lock").exists()


def test_the_folder_is_claimed(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    rescored(EXPERIMENT, source, folder)
    assert json.loads((folder / "run.json").read_text())["run_id"] == EXPERIMENT.run_id
    with filelock.FileLock(folder / ".lock"), pytest.raises(RunError, match="another process is working on run"):
        rescored(EXPERIMENT, source, folder)
    other = tmp_path / "other"
    with claimed(other, "f" * 12):
        mark_started(other, "f" * 12, {})
    with pytest.raises(RunError, match="holds run ffffffffffff, this configuration is run"):
        rescored(EXPERIMENT, source, other)
    assert not (other / "scores.json").exists()


def test_what_holds_no_answers_leaves_no_folder(source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"holds no scores\.json"):
        rescored(EXPERIMENT, tmp_path / "empty", tmp_path / "again")
    write_json(source / "scores.json", (score("arc", 1.0),))
    with pytest.raises(DataError, match="no task there has written answers"):
        rescored(EXPERIMENT, source, tmp_path / "again")
    (source / "samples" / "arc.jsonl").unlink()
    with pytest.raises(RunError, match=r"arc\.jsonl does not exist"):
        rescored(EXPERIMENT, source, tmp_path / "again")
    assert not (tmp_path / "again").exists()
