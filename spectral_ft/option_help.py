"""`--help`: every group, every choice and every option, each with the comment that stands in its YAML."""

import re
from pathlib import Path

from spectral_ft.configuration import CONF
from spectral_ft.schema import GROUPS, SHORTCUTS

ENTRIES = {
    "run": "the whole job: analyse, allocate, train, score",
    "analyze": "the spectral stage alone",
    "plan": "which matrix gets which rank, and what that costs, without training",
    "compress": "a smaller LoRA adapter, scored next to the original",
    "extract": "a LoRA adapter from a base and a fine-tuned checkpoint",
    "evaluate": "scores of a model, or of adapters that exist already",
}
"""Commands whose options are the configuration, and what each does."""


def help_text(entry: str = "run") -> str:
    """Every group, every choice with its first comment line, every option with its comment.

    Args:
        entry: Of `ENTRIES`.

    Returns:
        Text for a terminal.
    """
    menu = (CONF / "config.yaml").read_text()
    about = dict(re.findall(r"^  - (\w+): \S+ +# (.*)$", menu, flags=re.M))
    lines = [
        f"python -m spectral_ft.{entry} [GROUP=CHOICE ...] [GROUP.OPTION=VALUE ...] [-m]",
        "",
        f"{ENTRIES[entry]}. With -m, several values separated by commas make a sweep.",
        "Without arguments: the embedded model.",
        "",
    ]
    for group in (*GROUPS, *SHORTCUTS):
        lines += [f"{group}=   {about[group]}", *_choices(CONF / group), ""]
    lines += ["Options (GROUP.OPTION=VALUE)", "", *_rows(menu.partition("\nhydra:")[0])]
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
    files = sorted((CONF / group).glob("*.yaml"))
    files = [file for file in files if file.name.startswith("_")] + [
        file for file in files if not file.name.startswith("_")
    ]
    return list(dict.fromkeys(row for file in files for row in _rows(file.read_text(), under=f"{group}.")))


def _rows(text: str, *, under: str = "") -> list[str]:
    # A row an option that has a comment, those of a mapping below it with their whole path.
    rows, above = [], [(-1, under)]
    for line in re.sub(r"\n +# ", " ", text).splitlines():  # a comment may go on in the next line
        if not (found := re.match(r"( *)([a-z]\w*): *(.*?)(?: +# (.*))?$", line)):
            continue
        indent, option, value, about = len(found[1]), *found.groups()[1:]
        while above[-1][0] >= indent:
            above.pop()
        path = above[-1][1] + option
        if about:
            rows.append(f"  {f'{path}={value}':<44}  {about}")
        above.append((indent, f"{path}."))
    return rows
