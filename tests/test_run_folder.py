"""Oracle: two claims on one folder, of which the second must fail."""

import pytest

from spectral_ft.errors import RunError
from spectral_ft.run_folder import STARTED, claimed, mark_started
from spectral_ft.storage import read_json


def test_a_folder_that_stays_empty_is_removed(tmp_path):
    with claimed(tmp_path / "run", "me"):
        assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "run").exists()


def test_a_folder_that_was_written_to_is_kept(tmp_path):
    with claimed(tmp_path / "run", "me"):
        mark_started(tmp_path / "run", "me", {})
    assert (tmp_path / "run" / STARTED).exists()


def test_a_failed_run_gives_its_folder_back(tmp_path):
    with pytest.raises(KeyboardInterrupt), claimed(tmp_path / "run", "me"):
        raise KeyboardInterrupt
    with claimed(tmp_path / "run", "me"):
        pass


def test_a_folder_is_held_by_one_process(tmp_path):
    with (
        claimed(tmp_path / "run", "me"),
        pytest.raises(RunError, match="another process is working on run me in"),
        claimed(tmp_path / "run", "me"),
    ):
        pass


def test_a_folder_belongs_to_one_run(tmp_path):
    with claimed(tmp_path / "run", "me"):
        mark_started(tmp_path / "run", "me", {})
    with (
        pytest.raises(RunError, match=r"holds run me, this configuration is run you: give another hydra\.run\.dir"),
        claimed(tmp_path / "run", "you"),
    ):
        pass
    with claimed(tmp_path / "run", "me"):
        assert read_json(tmp_path / "run" / STARTED, dict)["run_id"] == "me"


def test_the_first_configuration_stays(tmp_path):
    mark_started(tmp_path, "me", {"seed": 1})
    mark_started(tmp_path, "me", {"seed": 2})
    assert read_json(tmp_path / STARTED, dict)["config"] == {"seed": 1}
