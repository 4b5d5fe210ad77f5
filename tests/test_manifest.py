"""Files that are not what was written; oracle: the files before they were damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from spectral_ft import report, storage
from spectral_ft.adapters.origin import check_origin
from spectral_ft.errors import Damaged
from spectral_ft.evaluation.records import ScoreFile, TaskScores
from spectral_ft.reporting.sweep_plan import SWEEP, PlannedJob, SweepPlan
from spectral_ft.run_folder import finished_run, verified
from spectral_ft.storage import MANIFEST, manifest, read_json, read_sealed, stored, write_json, write_sealed
from spectral_ft.sweep import _add
from tests.conftest import call_entry
from tests.oracles import score

Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "a flipped bit": lambda whole: (
        whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
    ),
    "a zeroed half": lambda whole: whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2),
    "a cut": lambda whole: whole[:-7],
    "nothing": lambda whole: b"",
    "more": lambda whole: whole + b"\n",
}


def damage(path: Path, how: str = "a flipped bit") -> None:
    path.write_bytes(DAMAGES[how](path.read_bytes()))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def identity(run: Path) -> str:
    return str(json.loads((run / "run.json").read_text())["run_id"])


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("kind", [dict[str, float], pd.DataFrame])
def test_a_damaged_file_of_a_stage_is_made_again(
    how: str, kind: type, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, value = tmp_path / "stage", {"a": 0.5}
    value = pd.DataFrame([value]) if kind is pd.DataFrame else value
    for _ in range(2):
        assert str(stored(path, kind, lambda: value)) == str(value)
    damage(path, how)
    made: list[int] = []
    assert str(stored(path, kind, lambda: made.append(1) or value)) == str(value)
    assert made and f"{path} is damaged" in caplog.text and "made again" in caplog.text
    assert str(stored(path, kind, lambda: None)) == str(value)


def test_a_file_from_before_there_was_a_manifest_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "old.json", {"a": 1})
    assert manifest(tmp_path) == {} and read_json(tmp_path / "old.json", dict) == {"a": 1}


def test_a_process_that_dies_between_entry_and_file_leaves_a_file_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "grows.json"
    write_json(path, [1], home=tmp_path)
    replace = Path.replace

    def dies(self: Path, target: Path) -> Path:
        if target == path:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", dies)
        write_json(path, [1, 2], home=tmp_path)
    assert read_json(path, list) == [1]
    write_json(path, [1, 2, 3], home=tmp_path)
    assert read_json(path, list) == [1, 2, 3]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_manifest_is_named_and_nothing_is_made_again(how: str, run: Path) -> None:
    damage(run / MANIFEST, how if how != "more" else "a cut")
    with pytest.raises(Damaged, match=MANIFEST):
        stored(run / "overlap.json", dict, lambda: pytest.fail("made again"))
    with pytest.raises(Damaged, match=MANIFEST):
        finished_run(run, identity(run))
    (run / MANIFEST).unlink()
    assert finished_run(run, identity(run)) is not None and verified(run, whole=True).unknown


@pytest.mark.parametrize("how", ["a flipped bit", "a zeroed half"])
@pytest.mark.parametrize(
    "name", ["adapter/adapter_model.safetensors", "plan.json", "samples/wordmath.jsonl", "drift.csv"]
)
def test_a_run_that_has_ended_is_compared_when_it_is_called_again(how: str, name: str, run: Path) -> None:
    assert finished_run(run, identity(run)) is not None
    damage(run / name, how)
    with pytest.raises(Damaged, match=Path(name).name):
        finished_run(run, identity(run))


def test_a_damaged_record_counts_as_none(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage(run / "result.json")
    assert finished_run(run, identity(run)) is None
    assert "result.json is damaged" in caplog.text


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "origin.json"])
@pytest.mark.parametrize("lost", [False, True])
def test_an_adapter_is_compared_wherever_it_is_opened(name: str, lost: bool, run: Path) -> None:
    origin = json.loads((run / "adapter" / "origin.json").read_text())
    options = {"model": "tiny", "fingerprint": origin["fingerprint"]}
    assert check_origin(run / "adapter", **options) is not None
    (run / "adapter" / name).unlink() if lost else damage(run / "adapter" / name)
    with pytest.raises(Damaged, match=name):
        check_origin(run / "adapter", **options)


def test_report_verify_reads_every_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call_entry(report.main, str(run), "--verify") == 0
    assert "as they were written" in capsys.readouterr().out
    damage(run / "train.jsonl")
    (run / "drift.csv").unlink()
    assert call_entry(report.main, str(run), "--verify") == 1
    told = capsys.readouterr()
    assert "damaged or edited: train.jsonl" in told.out and "removed: drift.csv" in told.out
    assert "1 of 1 runs" in told.err


@pytest.mark.parametrize("how", DAMAGES)
def test_items_that_are_damaged_or_lost_are_scored_again(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = ScoreFile(tmp_path)
    for task in ("a", "b"):
        for stage in ("base", "tuned"):
            rows = [{"id": 0, "stage": stage, "text": task}]
            file.add(stage, TaskScores((score(task, 0.5, stage=stage),), rows))
    damage(tmp_path / "samples" / "a.jsonl", how)
    file.forget_damaged()
    assert {(one.stage, one.task) for one in file.scores()} == {("base", "b"), ("tuned", "b")}
    assert "a.jsonl" in caplog.text


def test_items_without_a_manifest_that_lack_a_stage_are_scored_again(tmp_path: Path) -> None:
    file = ScoreFile(tmp_path)
    file.add("base", TaskScores((score("a", 0.5, stage="base"),), [{"id": 0, "stage": "base"}]))
    (tmp_path / MANIFEST).unlink()
    (tmp_path / "samples" / "a.jsonl").write_text("")
    file.forget_damaged()
    assert file.scores() == ()


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_list_of_jobs_is_never_replaced(how: str, tmp_path: Path) -> None:
    one, other = (SweepPlan(None, (PlannedJob(run_id, (f"seed={run_id}",)),)) for run_id in "12")
    _add(tmp_path, one)
    damage(tmp_path / SWEEP, how)
    before = (tmp_path / SWEEP).read_bytes()
    with pytest.raises(Damaged, match=SWEEP):
        _add(tmp_path, other)
    assert (tmp_path / SWEEP).read_bytes() == before


@pytest.mark.parametrize("change", [{"b": 2}, {"digest": "0" * 32}, {"more": None}])
def test_a_sealed_file_is_whole_or_refused(change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "sealed.json"
    write_sealed(path, {"a": [0.1, 1e300, "\u00e9"], "b": 1})
    assert read_sealed(path, dict) == {"a": [0.1, 1e300, "\u00e9"], "b": 1}
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(Damaged):
        read_sealed(path, dict)


def test_content_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(storage, "_sync_one", lambda path: done.append(f"sync {path.name}"))
    monkeypatch.setattr(Path, "replace", lambda self, to: done.append(f"name {to.name}") or replace(self, to))
    with storage.replacing(tmp_path / "adapter", home=tmp_path) as part:
        part.mkdir()
        (part / "weights").write_text("w")
    own = [line for line in done if MANIFEST not in line]
    assert own[0] == "sync weights" and done[-2:] == ["name adapter", f"sync {tmp_path.name}"]
    assert done.index(f"name {MANIFEST}") < done.index("name adapter")
