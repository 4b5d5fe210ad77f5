"""Oracle: what a W&B server of our own was told by W&B itself, online or by `wandb sync`; and a clock."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spectral_ft.tracking import Tracking

from .servers import ANSWERS, KEY, accepting, saying, serving

ROW = {"name": "m", "rank": 4, "group": None}
PATIENCE = 20.0
WANDB = [sys.executable, "-m", "wandb"]


@pytest.fixture(autouse=True)
def told(caplog):
    """The sentences of a run."""
    caplog.set_level(logging.INFO, "spectral_ft.tracking")
    return caplog


def opened(folder, *, run_id="r", **options):
    settings = {"mode": "auto", "project": "p", "entity": None, "group": "sweep", "arm": "a", "patience": PATIENCE}
    tracking = Tracking(**settings | options)
    config = {"seed": 1, "method": {"name": "lora"}, "rank_policy": {"_target_": "x.uniform.Uniform"}}
    return tracking.open(run_id=run_id, config=config, folder=folder)


def picture(folder):
    from matplotlib.figure import Figure

    Figure(figsize=(1, 1)).savefig(folder / "plan.png")
    return folder / "plan.png"


def work(tracker, folder, *, steps=(1, 2)):
    """A small run; returns the seconds that it was held up while it worked, and at its end."""
    drawn = picture(folder)
    began = time.monotonic()
    tracker.table("plan", [ROW, {**ROW, "rank": 0}])
    tracker.picture(drawn)
    for step in steps:
        tracker.log({"step": step, "loss": 1 / step})
    (folder / "adapter").mkdir(exist_ok=True)
    (folder / "adapter" / "weights").write_text("w")
    tracker.adapter(folder / "adapter")
    tracker.table("scores", [{"task": "t", "value": 0.5, "stderr": None}])
    tracker.summarise({"tuned/t/acc/strict": 0.5})
    worked = time.monotonic()
    tracker.close()
    return worked - began, time.monotonic() - worked


def losses(server):
    return {row["_step"]: row["train/loss"] for row in server.rows if "train/loss" in row}


def whole(server):
    """Whether a server has all of `work`."""
    first = server.buckets[0]
    assert (first["name"], first["project"], first["groupName"]) == ("r", "p", "sweep")
    assert first["tags"] == ["lora", "uniform", "a"]
    assert json.loads(first["config"])["seed"]["value"] == 1
    assert losses(server) == {1: 1.0, 2: 0.5}
    shown = {key: value["_type"] for row in server.rows for key, value in row.items() if isinstance(value, dict)}
    assert shown == {"plan": "table-file", "scores": "table-file", "figures/plan": "image-file"}


def no_key_below(folder):
    return not [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_online_a_server_gets_everything(somebody, monkeypatch, told):
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        work(opened(somebody), somebody)
        whole(server)
        assert not [each for each in server.artifacts if each["artifactTypeName"] == "adapter"]
        assert (server.resumed, server.exit_codes) == (["r"], [0])  # asked for, so that a resumed run goes on
    assert "W&B shows this run at" in told.text and KEY not in told.text and no_key_below(somebody)


def test_a_run_that_was_cut_has_failed_until_it_is_resumed_under_its_name(somebody, monkeypatch):
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        tracker = opened(somebody)
        tracker.log({"step": 1, "loss": 1.0})
        tracker.close()
        work(opened(somebody), somebody, steps=(2,))
        assert (server.resumed, server.exit_codes, losses(server)) == (["r", "r"], [1, 0], {1: 1.0, 2: 0.5})


def test_a_server_that_knows_the_user_and_refuses_the_run_leaves_it_offline(somebody, monkeypatch, told):
    monkeypatch.delitem(ANSWERS, "UpsertBucket")
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        work(opened(somebody), somebody)
    assert "W&B did not begin the run" in told.text and "this run is kept offline" in told.text
    assert len(list(somebody.glob("wandb/offline-run-*/run-r.wandb"))) == 1


def test_an_adapter_is_an_artifact_where_asked_for(somebody, monkeypatch):
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        work(opened(somebody, artifacts=True), somebody)
        named = [each["artifactCollectionName"] for each in server.artifacts if each["artifactTypeName"] == "adapter"]
    assert named == ["adapter-r"]


def test_offline_runs_of_one_run_are_sent_later_by_the_documented_command(nobody, told, monkeypatch):
    work(opened(nobody, mode="offline"), nobody, steps=(1,))
    time.sleep(1.1)  # W&B names its folders by the second
    work(opened(nobody, mode="offline"), nobody, steps=(2,))
    commands = [r.getMessage().split("`")[1] for r in told.records if "keeps this run offline" in r.getMessage()]
    folders = [command.removeprefix("wandb sync ") for command in commands]
    assert len(set(folders)) == 2 and all(Path(folder).is_relative_to(nobody) for folder in folders)
    with serving() as server:
        environment = {**os.environ, "WANDB_BASE_URL": server.address, "WANDB_API_KEY": KEY}
        subprocess.run([*WANDB, "sync", *folders], env=environment, check=True, timeout=100, capture_output=True)
        whole(server)
        assert {bucket["name"] for bucket in server.buckets} == {"r"}


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_said_once_and_the_run_is_kept_offline(somebody, monkeypatch, told, status):
    with serving(status=status) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        worked, closed = work(opened(somebody), somebody)
        assert server.asked == 1
    warned = [record.getMessage() for record in told.records if record.levelno >= logging.WARNING]
    assert warned == [f"W&B refused the key ({status}): this run is kept offline"]
    assert worked < 1 and closed < PATIENCE and KEY not in told.text and no_key_below(somebody)
    assert len(list(somebody.glob("wandb/offline-run-*/run-r.wandb"))) == 1


def test_a_closed_port_does_not_hold_a_run_up(somebody, told):
    worked, _ = work(opened(somebody), somebody)
    assert worked < 1
    assert "W&B cannot be reached" in told.text and len(list(somebody.glob("wandb/offline-run-*"))) == 1


def test_a_server_that_is_none_leaves_the_run_offline(somebody, monkeypatch, told):
    with saying(b"SSH-2.0-OpenSSH_9.6\r\n") as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        work(opened(somebody), somebody)
    assert "this run is kept offline" in told.text and len(list(somebody.glob("wandb/offline-run-*"))) == 1


def test_a_server_that_never_answers_does_not_hold_a_run_up(somebody, monkeypatch, told):
    with accepting() as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        worked, closed = work(opened(somebody), somebody)
    assert worked < 1 and closed < PATIENCE
    assert "W&B did not answer within 5 s: this run is kept offline" in told.text
    assert len(list(somebody.glob("wandb/offline-run-*"))) == 1


def test_a_server_that_falls_silent_in_the_middle_costs_no_more_than_the_patience(somebody, monkeypatch, told):
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        tracker = opened(somebody, patience=2.0)
        deadline = time.monotonic() + 60
        while not server.buckets and time.monotonic() < deadline:
            time.sleep(0.05)
        server.silent.set()
        worked, closed = work(tracker, somebody)
    assert worked < 1 and closed < 2 + 10
    assert "sends the rest" in told.text or "was stopped" in told.text


def test_a_fork_that_holds_the_pipe_open_keeps_nobody_waiting(nobody, told):
    tracker = opened(nobody, mode="offline")
    fork = os.fork()
    if not fork:
        time.sleep(60)
        os._exit(0)
    try:
        _, closed = work(tracker, nobody)
    finally:
        os.kill(fork, signal.SIGKILL)
        os.waitpid(fork, 0)
    assert closed < PATIENCE and "keeps this run offline" in told.text


def test_a_run_that_was_killed_is_sent_as_failed_by_its_orphan(somebody, monkeypatch):
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        code = (
            "import os, sys; from pathlib import Path; from spectral_ft.tracking import Tracking\n"
            "options = dict(mode='auto', project='p', entity=None, group=None)\n"
            "tracker = Tracking(**options).open(run_id='r', config={}, folder=Path(sys.argv[1]))\n"
            "tracker.log({'step': 1, 'loss': 1.0})\n"
            "import time; time.sleep(0.5); os.kill(os.getpid(), 9)"
        )
        assert subprocess.run([sys.executable, "-c", code, somebody], check=False).returncode == -signal.SIGKILL
        deadline = time.monotonic() + 60
        while not server.exit_codes and time.monotonic() < deadline:
            time.sleep(0.1)
        assert (server.exit_codes, losses(server)) == ([1], {1: 1.0})


def test_a_process_that_dies_leaves_the_run_alone(nobody, told, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    worked, closed = work(opened(nobody), nobody)
    assert worked + closed < 2
    assert [json.loads(line)["step"] for line in (nobody / "train.jsonl").read_text().splitlines()] == [1, 2]


def test_a_process_that_cannot_be_started_is_said(nobody, told, monkeypatch):
    monkeypatch.setattr("sys.executable", str(nobody / "nothing"))
    work(opened(nobody), nobody)
    assert "its process cannot be started" in told.text
