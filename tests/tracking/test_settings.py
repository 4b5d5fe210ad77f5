"""Oracle: the modes and keys of a user, and configurations as the commands compose them."""

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf
from pydantic import ValidationError

from spectral_ft.compose import composed, plain, register
from spectral_ft.configuration import CONF
from spectral_ft.tracking import Tracking
from spectral_ft.tracking.json_lines import JsonLines
from spectral_ft.tracking.settings import tags_of


def tracking(mode="auto", **options):
    return Tracking(mode=mode, project="p", entity=None, group=None, **options)


@pytest.mark.parametrize(("mode", "resolved"), [("auto", "online"), ("offline", "offline")])
def test_a_key_in_the_environment_is_used_with_auto_only(nobody, monkeypatch, mode, resolved):
    monkeypatch.setenv("WANDB_API_KEY", "k")
    assert tracking(mode).resolved_mode == resolved


@pytest.mark.parametrize(
    ("said", "mode", "resolved"),
    [
        ("offline", "auto", "offline"),
        ("dryrun", "auto", "offline"),
        ("disabled", "auto", "disabled"),
        ("online", "auto", "online"),
        ("disabled", "offline", "offline"),
        ("online", "offline", "offline"),
        ("online", "disabled", "disabled"),
    ],
)
def test_w_and_b_s_own_variable_decides_with_auto_only(nobody, monkeypatch, said, mode, resolved):
    monkeypatch.setenv("WANDB_API_KEY", "k")
    monkeypatch.setenv("WANDB_MODE", said)
    assert tracking(mode).resolved_mode == resolved


def test_the_variable_alone_makes_nobody_online(nobody, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    assert tracking().resolved_mode == "offline"


@pytest.mark.parametrize(
    ("host", "address", "resolved"),
    [
        ("api.wandb.ai", None, "online"),
        ("example.org", None, "offline"),
        ("example.org", "https://example.org:8080/", "online"),
        ("api.wandb.ai", "https://example.org", "offline"),
    ],
)
def test_a_key_is_looked_for_in_netrc_by_the_server_s_name(nobody, monkeypatch, host, address, resolved):
    (nobody / ".netrc").write_text(f"machine {host}\n  login user\n  password k\n")
    if address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
    assert tracking().resolved_mode == resolved


def test_a_netrc_that_cannot_be_read_is_no_key(nobody):
    (nobody / ".netrc").write_text("machine\n machine ) \n")
    assert tracking().resolved_mode == "offline"


def test_without_a_key_auto_is_offline(nobody):
    assert tracking().resolved_mode == "offline"


@pytest.mark.parametrize(("option", "value"), [("mode", "online"), ("patience", 0.0), ("artifacts", "yes")])
def test_a_wrong_value_is_refused_by_name(option, value):
    with pytest.raises(ValidationError, match=option):
        tracking(**{option: value})


@pytest.mark.parametrize(("said", "mode"), [("offline", "disabled"), ("disabled", "auto")])
def test_disabled_means_local_lines_alone(tmp_path, monkeypatch, said, mode):
    def refuse(*_, **__):
        raise AssertionError("a process was started")

    monkeypatch.setattr("subprocess.Popen", refuse)
    monkeypatch.setenv("WANDB_MODE", said)
    assert isinstance(tracking(mode).open(run_id="r", config={}, folder=tmp_path), JsonLines)


def test_tags_are_method_policy_model_data_and_arm():
    config = plain(composed(["method=spectraqlora", "model=tiny"]))
    assert tags_of(config, arm="tiny/spectral") == ["spectraqlora", "snr_top", "tiny", "wordmath", "tiny/spectral"]


def test_tags_are_short_and_each_is_there_once():
    config = {"method": {"name": "x" * 80}, "model": {"name": "x" * 80}, "dataset": {"name": "d"}}
    assert tags_of(config, arm=None) == ["x" * 64, "d"]


def test_outside_of_a_command_there_is_neither_group_nor_arm():
    options = plain(composed([]))["tracking"]
    assert (options["group"], options["arm"], options["artifacts"]) == (None, None, False)


@pytest.mark.parametrize(("mode", "group"), [(RunMode.MULTIRUN, "first_comparison"), (RunMode.RUN, None)])
def test_a_sweep_s_runs_are_grouped_by_its_folder_and_tagged_by_their_arm(mode, group):
    register()
    written = OmegaConf.load(CONF / "tracking" / "default.yaml")
    hydra = {
        "mode": mode,
        "sweep": {"dir": "runs/first_comparison/"},
        "runtime": {"choices": {"arm": "tiny/uniform", "method": "lora"}},
    }
    options = plain(OmegaConf.create({"hydra": hydra, "tracking": written}))["tracking"]
    assert (options["group"], options["arm"]) == (group, "tiny/uniform")
