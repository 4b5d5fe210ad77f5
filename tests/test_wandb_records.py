"""Records in W&B; oracles: an API object that gives what was put, and W&B's own client without a key or a server."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import requests
import wandb

from spectral_ft.errors import ConfigError, RunError
from spectral_ft.report import _found
from spectral_ft.reporting.run_files import mirrored_run, read_run
from spectral_ft.wandb_records import KEY, read_project, summary_of
from tests.conftest import QUICK, REPOSITORY
from tests.reporting.runs import write_record


class FakeApi:
    """What was asked, and the runs that are there."""

    def __init__(self, *runs, error=None):
        self.found, self.error, self.asked = runs, error, None

    def runs(self, path, filters):
        self.asked = path, filters
        if self.error:
            raise self.error
        return iter(self.found)


def remote(result, *, state="finished", **changes):
    summary = json.loads(json.dumps(summary_of(result) | {"tuned/aqua/exact_match/strict": 0.5}))  # through W&B's text
    run = {"id": result.run_id, "state": state, "config": result.config, "summary": summary}
    return SimpleNamespace(**{**run, "created_at": "2026-01-02T03:04:05Z", **changes})


@pytest.fixture
def result(tmp_path):
    found = read_run(write_record(tmp_path / "a", run_id="a", seed=3)).result
    assert found is not None
    return found


def test_a_record_comes_back_as_it_was(result):
    api = FakeApi(remote(result))
    (run,) = read_project("team/project/group", api=api)
    assert api.asked == ("team/project", {"group": "group"}) and KEY in summary_of(result)
    assert (run.place, run.run_id, run.updated) == ("wandb:team/project/a", "a", 1767323045.0)
    files = mirrored_run(run.place, run.run_id, state=run.state, config=run.config, record=run.record)
    assert files.status == "finished" and files.result == result and files.config == result.config
    read_project("team/project", api=api)
    assert api.asked == ("team/project", None)


class Recorder:
    """A tracker that keeps what a run ends with."""

    def __init__(self):
        self.summary = {}

    def summarise(self, values):
        self.summary |= values

    def __getattr__(self, name):
        return lambda *given, **named: None


def test_a_run_leaves_its_record_with_its_tracker(command, tmp_path, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr("spectral_ft.tracking.Tracking.open", lambda *given, **named: recorder)
    done = command(*QUICK, "benchmark=none", f"hydra.run.dir={tmp_path / 'run'}")
    result = read_run(tmp_path / "run").result
    assert done.code == 0 and result is not None and recorder.summary[KEY] == summary_of(result)[KEY]


@pytest.mark.parametrize(
    ("state", "status"), [("running", "running"), ("crashed", "failed"), ("finished", "damaged"), ("killed", "failed")]
)
def test_a_run_without_a_record_has_its_state(result, state, status):
    (run,) = read_project("a/b", api=FakeApi(remote(result, state=state, summary={"loss": 1.0})))
    files = mirrored_run(run.place, run.run_id, state=run.state, config=run.config, record=run.record)
    assert files.status == status and files.result is None
    assert files.reason is None if status == "running" else f"wandb:a/b/a is {state}" in files.reason


def test_a_record_of_another_form_is_damaged():
    files = mirrored_run("wandb:a/b/c", "c", state="finished", config={}, record={"run_id": "c"})
    assert files.status == "damaged" and "the record of wandb:a/b/c is damaged: format" in files.reason


@pytest.mark.parametrize(
    ("text", "fault"), [('{"run_id": "a", "sco', "Unterminated string"), ("[1]", "it is no JSON object"), (7, "JSON")]
)
def test_one_damaged_record_hides_no_other(result, text, fault, monkeypatch):
    runs = (
        remote(result),
        remote(result, id="torn", summary={KEY: text}),
        remote(result, id="foreign", config={"lr": 1}),
    )
    monkeypatch.setattr(wandb, "Api", lambda **_: FakeApi(*runs))
    found, _ = _found(["wandb:a/b"])
    assert [(run.run_id, run.status) for run in found] == [
        ("a", "finished"),
        ("torn", "damaged"),
        ("foreign", "finished"),
    ]
    assert found[1].reason.startswith("the record of wandb:a/b/torn is damaged: ") and fault in found[1].reason
    assert [run.arm for run in found] == ["lora/uniform", "lora/uniform", "foreign"]


@pytest.mark.parametrize("named", ["project", "a/b/c/d", "a//c", ""])
def test_what_names_no_project_is_refused(named):
    with pytest.raises(ConfigError, match=f"wandb:{named} names no W&B project"):
        read_project(named, api=FakeApi())


@pytest.mark.parametrize(
    "error",
    [
        wandb.errors.CommError("no such project\nand more"),
        requests.ConnectionError("no such project"),
        ValueError("no such project"),
    ],
)
def test_a_refusal_is_one_sentence(error):
    with pytest.raises(RunError, match=r"wandb:a/b cannot be read, by the key of .*: no such project$"):
        read_project("a/b", api=FakeApi(error=error))
    with pytest.raises(RunError, match=rf": {type(error).__name__}$"):
        read_project("a/b", api=FakeApi(error=type(error)("")))
    with pytest.raises(RunError, match="wandb:a/b holds no run"):
        read_project("a/b", api=FakeApi())


@pytest.mark.parametrize("key", ["", "a" * 40], ids=["no key", "no server"])
def test_without_a_key_or_a_server_the_command_says_so(tmp_path, key):
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "WANDB_API_KEY": key, "PYTHONPATH": str(REPOSITORY)}
    if key:
        environment["WANDB_BASE_URL"] = "http://127.0.0.1:9"
    command = [sys.executable, "-m", "spectral_ft.report", "wandb:a/b", "--status"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: wandb:a/b cannot be read" in done.stderr
