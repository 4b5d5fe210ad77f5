"""Every command of the README and the documents is one that exists; oracle: the parsers of the commands themselves.

Those of the guide are called for real in `test_guide.py`, the launchers in `test_launchers.py`.
"""

import re
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from spectral_ft.compose import build_experiment, composed
from spectral_ft.export import parse as parse_export
from spectral_ft.option_help import ENTRIES
from spectral_ft.report import parse as parse_report
from tests.conftest import REPOSITORY

PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *REPOSITORY.glob("experiments/**/*.md"),
]
COMMAND = re.compile(
    r"^(?:\w+=\S+ )*(?:(?:python|torchrun [^\n]*?|accelerate launch [^\n]*?) ?-m spectral_ft\.|make )(.+)$", re.M
)
PLACE = re.compile(r"\b(?:[A-Z0-9_]*(?:FOLDER|FILE)[A-Z_]*(?:\.jsonl)?|\w+_MODEL\.json|runs/IDENTITY)\b")


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), flags=re.M | re.S):
            text = block.replace("\\\n", " ")
            found += [(str(page.relative_to(REPOSITORY)), said) for said in COMMAND.findall(text)]
    return [(page, said) for page, said in found if "--config-dir" not in said]


def first_job(words: list[str]) -> list[str]:
    """Overrides of a command line, of a sweep those of its first job, without Hydra's own."""
    own = [word for word in words if not word.startswith(("-", "hydra"))]
    parsed = OverridesParser.create().parse_overrides(own)
    return [
        f"{one.get_key_element()}={next(one.sweep_string_iterator())}" if one.is_sweep_override() else word
        for word, one in zip(own, parsed, strict=True)
    ]


@pytest.mark.parametrize(("page", "said"), commands())
def test_a_command_is_understood(page: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "content").write_text("{}")
    entry, *words = shlex.split(PLACE.sub(str(tmp_path), said), comments=True)
    if entry in ENTRIES:
        if "--help" not in words:
            build_experiment(composed(first_job(words)))
    elif entry == "report":
        parse_report(words)
    elif entry == "export":
        parse_export(words)
    else:
        targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.M)
        assert entry in targets, f"{page}: make has no target {entry}"


def test_there_are_commands_to_try() -> None:
    assert len({page for page, _ in commands()}) >= 5 and len(commands()) >= 40
    assert {said.split()[0] for _, said in commands()} >= {*ENTRIES, "report", "export", "run", "test"}
