"""`--help`: every group, every choice and every option, each with the comment that stands in its YAML."""

import re
from pathlib import Path

from spectral_ft.configuration import CONF
from spectral_ft.schema import GROUPS, SHORTCUTS


def help_text() -> str:
    """Every group, every choice with its first comment line, every option with its comment.

    Returns:
        Text for a terminal.
    """
    lines = [
        "python -m spectral_ft.run [GROUP=CHOICE ...] [GROUP.OPTION=VALUE ...] [-m]",
        "",
        "One run: spectral analysis, allocation, fine-tuning, evaluation, record. With -m, several values",
        "separated by commas make a sweep. Without arguments: the embedded model, in under a minute.",
        "",
    ]
    about = dict(re.findall(r"^  - (\w+): \S+ +# (.*)$", (CONF / "config.yaml").read_text(), flags=re.M))
    for group in (*GROUPS, *SHORTCUTS):
        lines += [f"{group}=   {about[group]}", *_choices(CONF / group), ""]
    lines += ["Options (GROUP.OPTION=VALUE; those of the default choices, others are in conf/)", ""]
    lines += ["  seed=0                      of adapter initialisation, order of examples and dropout"]
    lines += ["  figures=true                draw what can be drawn; false starts faster"]
    for group in GROUPS:
        lines += _options(group)
    lines += ["", "hydra.run.dir=DIR puts everything into DIR; by default it is runs/IDENTITY.", "More: --hydra-help"]
    return "\n".join(lines)


def _choices(folder: Path) -> list[str]:
    rows = []
    for file in sorted(folder.rglob("*.yaml")):
        if not file.name.startswith("_"):
            comments = [line[2:] for line in file.read_text().splitlines() if line.startswith("# ")]
            about = next((line for line in comments if not line.startswith("@package")), "")
            rows.append(f"  {file.relative_to(folder).with_suffix('')!s:<22}  {about}")
    return rows


def _options(group: str) -> list[str]:
    rows: list[str] = []
    files = [file for file in sorted((CONF / group).glob("*.yaml")) if file.name.startswith("_")]
    for file in files or sorted((CONF / group).glob("*.yaml")):
        text = re.sub(r"\n +# ", " ", file.read_text())  # a comment may go on in the next line
        for option, value, about in re.findall(r"^(\w+): *(.*?) +# (.*)$", text, flags=re.M):
            row = f"  {f'{group}.{option}={value}':<44}  {about}"
            if row not in rows:
                rows.append(row)
    return rows
