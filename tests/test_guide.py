"""The guide's examples, in an empty folder, as a reader would call them; oracle: they do what they say."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import EMBEDDED, REPOSITORY

GUIDE = (REPOSITORY / "docs" / "guide.md").read_text()


class Command(NamedTuple):
    heading: str
    text: str


def files() -> dict[str, str]:
    return dict(re.findall(r"```\w+ file=(\S+)\n(.*?)```", GUIDE, flags=re.DOTALL))


def commands() -> list[Command]:
    found = []
    for section in GUIDE.split("\n## ")[1:]:
        for block in re.findall(r"```console\n(.*?)```", section, flags=re.DOTALL):
            found += [Command(section.splitlines()[0], line) for line in block.splitlines()]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("guide")
    for name, text in files().items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    shutil.copytree(EMBEDDED, place / "checkpoint")
    return place


def called(command: str, folder: Path) -> str:
    words = [sys.executable if word == "python" else word for word in shlex.split(command)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_thing_that_can_be_added_has_an_example() -> None:
    assert {command.heading for command in commands()} == {
        "A model",
        "A rank policy",
        "A method",
        "A metric",
        "In your own script",
    }
    assert len(files()["own_trainer.py"].replace("\n\n", "\n").splitlines()) == 12


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.text[:70])
def test_an_example_runs(command: Command, folder: Path) -> None:
    said = " ".join(called(command.text, folder).split())  # however wide the columns
    expected = {
        "rank_policy=widest": "5 of 28",
        "method=one_module": "trainable parameters 192 ",
        "method=top_dora": "7 of 28",
        "model=mine": "28 of 28",
    }
    for option, words in expected.items():
        if option in command.text:
            assert words in said


def test_the_policys_choice_is_what_its_rule_says(folder: Path) -> None:
    called("python -m spectral_ft.plan --config-dir=conf rank_policy=widest figures=false hydra.run.dir=widest", folder)
    plan = json.loads((folder / "widest" / "plan.json").read_text())
    chosen = [allocation["name"] for allocation in plan["allocations"] if allocation["rank"]]
    assert len(chosen) == 5
    assert all("mlp" in name for name in chosen)


def test_the_metric_is_a_column(folder: Path) -> None:
    command = "python -m spectral_ft.analyze --config-dir=conf spectrum=mine figures=false hydra.run.dir=nuclear"
    called(command, folder)
    header = (folder / "nuclear" / "spectrum.csv").read_text().splitlines()[0]
    assert "nuclear_norm" in header.split(",")
