"""Checkpoints and settings; oracles: a marker file, typed numbers."""

from pathlib import Path

import pytest

from spectral_ft.training.train import COMPLETE, last_checkpoint


def checkpoint(folder: Path, step: int, *, whole: bool) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"x")
    if whole:
        (path / COMPLETE).write_text('{"step": 1, "seconds": 2.0}')
    return path


def test_the_newest_whole_checkpoint_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint(tmp_path, 90, whole=True)
    expected = checkpoint(tmp_path, 100, whole=True)
    cut = checkpoint(tmp_path, 1000, whole=False)
    assert last_checkpoint(tmp_path) == expected
    assert not cut.exists()
    assert "checkpoint-1000 was cut" in caplog.text


def test_no_checkpoint_is_no_fault(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
