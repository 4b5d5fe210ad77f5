"""The `evaluate` command on the embedded model; oracles: the scores that a run itself wrote, rules applied by hand."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spectral_ft import evaluate, run
from spectral_ft.adapters.origin import write_origin
from spectral_ft.storage import read_json
from spectral_ft.types import AllocationPlan
from tests.conftest import Called, call_entry

Evaluator = Callable[..., Called]
SMALL = ("benchmark.limit=8", "benchmark.cache=false", "tracking.mode=disabled")


@pytest.fixture
def evaluator(capfd: pytest.CaptureFixture[str]) -> Evaluator:
    """Calls the command in this process."""

    def call(folder: Path, *overrides: str) -> Called:
        capfd.readouterr()
        code = call_entry(evaluate.main, f"hydra.run.dir={folder}", *SMALL, *overrides)
        return Called(code, *capfd.readouterr())

    return call


def samples(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples" / "wordmath.jsonl").read_text().splitlines()]


def test_a_runs_adapter_has_the_runs_scores(evaluator: Evaluator, finished: Path, tmp_path: Path) -> None:
    done = evaluator(tmp_path / "scored", f"adapter={finished}")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "scored" / "scores.json").read_text()) == json.loads(
        (finished / "scores.json").read_text()
    )
    assert samples(tmp_path / "scored") == samples(finished)
    lines = {line.split("│")[2].strip() for line in done.out.splitlines() if "wordmath" in line}
    assert {"exact_match (strict-match)", "gold_loss (completion)", "unfinished (length)"} <= lines
    assert "fine-tuned less base" in done.out


def test_without_an_adapter_the_base_is_scored(evaluator: Evaluator, tmp_path: Path) -> None:
    done = evaluator(tmp_path / "base")
    assert done.code == 0 and "fine-tuned" not in done.out
    assert {row["stage"] for row in samples(tmp_path / "base")} == {"base"}


def test_what_is_finished_is_not_scored_again(
    evaluator: Evaluator, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluator(tmp_path / "scored", f"adapter={finished}")
    monkeypatch.setattr("spectral_ft.stages.base.load_base", None)
    again = evaluator(tmp_path / "scored", f"adapter={finished}")
    assert again.code == 0 and again.out == first.out


def test_several_adapters_have_a_folder_each(evaluator: Evaluator, finished: Path, tmp_path: Path) -> None:
    other = shutil.copytree(finished / "adapter", tmp_path / "other")
    done = evaluator(tmp_path / "scored", f"adapter=[{finished},{other}]")
    assert done.code == 0, done.err
    assert {path.name for path in (tmp_path / "scored").iterdir() if path.is_dir()} == {"run", "other", "tasks"}
    assert samples(tmp_path / "scored" / "run") == samples(tmp_path / "scored" / "other") == samples(finished)
    assert "tiny, run" in done.out and "tiny, other" in done.out


def test_stored_answers_are_read_by_every_rule(evaluator: Evaluator, finished: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    done = evaluator(tmp_path / "again", f"rescore={finished}")
    assert done.code == 0, done.err
    assert {path: path.read_bytes() for path in before} == before
    by_rule = {(s["extractor"], s["stage"]): s["value"] for s in read_json(tmp_path / "again" / "scores.json", list)}
    answers = {(row["stage"], row["id"]): row for row in samples(finished) if row["response"] is not None}
    for stage in ("base", "tuned"):
        right = []
        for (of, _), row in answers.items():
            numbers = re.findall(r"-?\d+\.?\d*", row["response"].replace(",", ""))
            right += [bool(numbers) and abs(float(numbers[-1]) - float(row["gold"])) <= 1e-3] if of == stage else []
        assert by_rule["paper_number", stage] == sum(right) / len(right) == pytest.approx(sum(right) / 8)
    stored = {score["extractor"] for score in read_json(finished / "scores.json", list)}
    assert {rule for rule, _ in by_rule} == {"paper_number", "strict_number"} | stored
    lines = [line for line in done.out.splitlines() if "exact_match" in line]
    assert len(lines) == 4 and all(line.count("[") == 3 for line in lines)  # of both sides and of their difference
    again = evaluator(tmp_path / "twice", f"rescore={tmp_path / 'again'}")
    assert read_json(tmp_path / "twice" / "scores.json", list) == read_json(tmp_path / "again" / "scores.json", list)
    assert again.code == 0 and samples(tmp_path / "twice") == samples(tmp_path / "again")
    stored_once = (tmp_path / "again" / "scores.json").read_bytes()
    repeated = evaluator(tmp_path / "again", f"rescore={finished}")
    assert (repeated.code, repeated.out) == (0, done.out)
    assert (tmp_path / "again" / "scores.json").read_bytes() == stored_once
    assert all(f"exact_match ({rule})" in done.out for rule in ("paper_number", "strict_number", "strict-match"))


def foreign(folder: Path) -> str:
    plan = AllocationPlan(allocations=(), trainable_parameters=0, adapter_parameters=0, base_parameters=1)
    (folder / "foreign").mkdir()
    (folder / "foreign" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    write_origin(folder / "foreign", model="another", fingerprint="0", plan=plan)
    return str(folder / "foreign")


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("adapter=nowhere", "adapter=nowhere is no folder: give that of an adapter, or of a finished run."),
        ("adapter={foreign}", "was trained on another (fingerprint 0), not on tiny"),
        ("adapter={empty}", "holds no adapter"),
        ("rescore={empty}", "holds no scores.json: give the folder of a run or of an evaluation."),
        ("benchmark=gsm9k", "Did you mean gsm8k?"),
        ("benchmark.chat_template=true", "benchmark.chat_template=true, and the tokenizer"),
        ("benchmark.generation={max_gen_toks: 0}", "at least 1 new token must be allowed"),
        ("model=minilm model.path=x", "no folder"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(option: str, sentence: str, evaluator: Evaluator, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = option.format(foreign=foreign(tmp_path), empty=tmp_path / "empty") if "max_gen" not in option else option
    done = evaluator(tmp_path / "scored", *(said.split() if "model=" in said else [said]))
    assert done.code == 1 and sentence in done.err
    assert done.err.strip().count("\n") <= 3 and "Traceback" not in done.err


@pytest.mark.parametrize("option", ["adapter=x", "rescore=x"])
def test_a_run_takes_neither(option: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call_entry(run.main, f"hydra.run.dir={tmp_path / 'run'}", option) == 1
    assert f"{option} is for `evaluate`: a run trains an adapter of its own." in capfd.readouterr().err
