"""The headline command from nothing, with the libraries' real environment variables, in processes of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.hub.server import Hub

COMMAND = ("-m", "spectral_ft.run", "method=sgm", "model=llama2-7b")
MODEL = "meta-llama/Llama-2-7b-hf"


class Done(NamedTuple):
    """A process that ended."""

    code: int
    err: str


def call(hub: Hub, home: Path, *overrides: str, **variables: str) -> Done:
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("HF_", "SPECTRAL_FT"))}
    own = {"HF_HOME": str(home / "hf"), "SPECTRAL_FT_CACHE": str(home / "cache"), "HF_ENDPOINT": hub.url}
    home.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, *COMMAND, *overrides],
        cwd=home,
        env=kept | own | {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", "HF_TOKEN": "good"} | variables,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    return Done(done.returncode, done.stderr)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_headline_command_goes_from_nothing_to_a_record_and_offline_asks_nothing(loopback, tmp_path):
    loopback.behave()
    loopback.gated.add(MODEL)
    loopback.tokens["good"] = True
    done = call(loopback, tmp_path, "hydra.run.dir=first")
    assert done.code == 0, done.err[-3000:]
    result = json.loads((tmp_path / "first" / "result.json").read_text())
    assert result["status"] == "finished" and result["config"]["dataset"]["hub"]["id"] == "lmms-lab/Math10K"
    scored = {(score["task"], score["protocol"], score["stage"]) for score in result["scores"]}
    assert scored == {(task, "standard", stage) for task in ("gsm8k", "aqua", "boolq") for stage in ("base", "tuned")}
    files = loopback.files()
    weights = [name for name in files if name.startswith(MODEL)]
    assert weights == files[-len(weights) :], "weights come after all checks"
    assert sorted(weights) == [f"{MODEL}/model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    used = {name.rpartition("/")[0] for name in files if name.endswith(".parquet")}
    assert used == {"lmms-lab/Math10K/data", "openai/gsm8k/main", "hails/agieval-aqua-rat/data", "aps/super_glue/boolq"}
    loopback.log.clear()
    again = call(loopback, tmp_path, "hydra.run.dir=second", HF_HUB_OFFLINE="1")
    assert again.code == 0, again.err[-3000:]
    assert loopback.log == []
    assert json.loads((tmp_path / "second" / "result.json").read_text())["run_id"] == result["run_id"]
