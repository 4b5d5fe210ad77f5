"""What a run folder says of its run; oracles: what was written into it by hand."""

import json
from pathlib import Path

import pytest

from spectral_ft.errors import RunError, SpectralFTError
from spectral_ft.identity import RECORD_FORMAT
from spectral_ft.run_folder import mark_started
from spectral_ft.stages.recorded_run import Recorded, read_record
from spectral_ft.storage import write_json
from spectral_ft.types import RunResult
from tests.conftest import edit_json

CONFIG = {"seed": 3, "model": {"name": "tiny"}}


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """A run that was cut after its training."""
    mark_started(tmp_path, "0123456789ab", CONFIG)
    write_json(tmp_path / "train.json", {})
    return tmp_path


@pytest.fixture
def finished(cut: Path) -> Path:
    """The same, finished on a GPU."""
    result = RunResult(
        run_id="0123456789ab",
        format=RECORD_FORMAT,
        status="finished",
        config=CONFIG,
        plan=None,
        train=None,
        scores=(),
        versions={},
        git_commit=None,
        seed=3,
        seconds=1.0,
        machine={"device": "NVIDIA H100"},
    )
    write_json(cut / "result.json", result)
    return cut


def test_a_finished_run_says_where_it_was_trained(finished: Path) -> None:
    assert read_record(finished) == Recorded("0123456789ab", RECORD_FORMAT, CONFIG, "NVIDIA H100")


def test_a_record_without_a_device_is_of_a_cpu(finished: Path) -> None:
    edit_json(finished / "result.json", machine={})
    assert read_record(finished).device == "cpu"


def test_a_run_that_was_cut_after_its_training_does_not_say(cut: Path) -> None:
    assert read_record(cut) == Recorded("0123456789ab", RECORD_FORMAT, CONFIG, None)


def test_a_run_that_is_still_training_is_refused(cut: Path) -> None:
    (cut / "train.json").unlink()
    with pytest.raises(RunError, match=r"run 0123456789ab in .* has not finished its training \(train.json is missing"):
        read_record(cut)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no run: neither result\.json nor run\.json is there"):
        read_record(tmp_path)
    with pytest.raises(RunError, match="not-there does not exist or is no folder"):
        read_record(tmp_path / "not-there")


@pytest.mark.parametrize("file", ["result.json", "run.json"])
def test_a_run_of_another_format_is_refused(file: str, finished: Path) -> None:
    edit_json(finished / file, format=99)
    if file == "run.json":
        (finished / "result.json").unlink()
    with pytest.raises(RunError, match=f"has record format 99, this version reads {RECORD_FORMAT}"):
        read_record(finished)


def test_a_damaged_record_is_refused(finished: Path) -> None:
    whole = (finished / "result.json").read_text()
    (finished / "result.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(SpectralFTError, match=r"result\.json is damaged"):
        read_record(finished)
    (finished / "result.json").write_text(json.dumps({**json.loads(whole), "more": 1}))
    with pytest.raises(SpectralFTError, match=r"result\.json is damaged"):
        read_record(finished)
