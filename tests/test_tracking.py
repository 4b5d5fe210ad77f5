"""Oracle: rows that a resumed training writes again, and a W&B that fails."""

import json

import pytest
from pydantic import ValidationError

from spectral_ft.tracking import JsonLines, Tracking


def tracking(mode="auto"):
    return Tracking(mode=mode, project="p", entity=None, group=None)


def rows(folder):
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """A user without a key."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


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


@pytest.mark.parametrize(("mode", "resolved"), [("auto", "online"), ("offline", "offline")])
def test_a_key_in_the_environment_is_used_with_auto_only(nobody, monkeypatch, mode, resolved):
    monkeypatch.setenv("WANDB_API_KEY", "k")
    assert tracking(mode).resolved_mode == resolved


@pytest.mark.parametrize(("host", "resolved"), [("api.wandb.ai", "online"), ("example.org", "offline")])
def test_a_key_is_looked_for_in_netrc(nobody, host, resolved):
    (nobody / ".netrc").write_text(f"machine {host}\n  login user\n  password k\n")
    assert tracking().resolved_mode == resolved


def test_without_a_key_auto_is_offline(nobody):
    assert tracking().resolved_mode == "offline"


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValidationError, match="mode"):
        tracking("online")


def test_disabled_means_local_lines_alone(tmp_path, monkeypatch):
    def refuse(**_):
        raise AssertionError("asked for")

    monkeypatch.setattr("wandb.init", refuse)
    tracker = tracking("disabled").open(run_id="r", config={}, folder=tmp_path)
    assert isinstance(tracker, JsonLines)


def work(tracker):
    tracker.log({"step": 1, "loss": 2.0})
    tracker.summarise({"accuracy": 0.5})
    tracker.close()


def test_a_wandb_that_cannot_start_is_logged_once_and_the_rows_are_kept(nobody, monkeypatch, caplog):
    def fail(**_):
        raise OSError("no network")

    monkeypatch.setattr("wandb.init", fail)
    work(tracking("offline").open(run_id="r", config={}, folder=nobody))
    assert [record.getMessage() for record in caplog.records] == ["W&B is left out from here on (OSError: no network)"]
    assert rows(nobody) == [{"step": 1, "loss": 2.0}]


class FakeRun:
    """Takes what W&B would."""

    def __init__(self, fault=None):
        self.logged, self.summary, self.finished, self._fault = [], {}, False, fault

    def log(self, values, *, step):
        if self._fault:
            raise self._fault
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


def test_wandb_mirrors_rows_and_summary_under_the_run_s_name(nobody, monkeypatch):
    run, asked = FakeRun(), {}
    monkeypatch.setattr("wandb.init", lambda **options: asked.update(options) or run)
    work(tracking("offline").open(run_id="r", config={"seed": 1}, folder=nobody))
    assert (asked["id"], asked["resume"], asked["mode"], asked["config"]) == ("r", "allow", "offline", {"seed": 1})
    assert run.logged == [(1, {"train/loss": 2.0})]
    assert (run.summary, run.finished) == ({"accuracy": 0.5}, True)


def test_a_wandb_that_fails_on_the_way_is_left_out_from_there_on(nobody, monkeypatch, caplog):
    run = FakeRun(fault=RuntimeError("disk full"))
    monkeypatch.setattr("wandb.init", lambda **_: run)
    work(tracking("offline").open(run_id="r", config={}, folder=nobody))
    assert caplog.text.count("W&B is left out") == 1
    assert (run.summary, run.finished) == ({}, False)
    assert rows(nobody) == [{"step": 1, "loss": 2.0}]
