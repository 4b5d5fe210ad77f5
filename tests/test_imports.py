"""Imports point down; oracle: the import statements themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "spectral_ft"
LEAVES = {"models", "data", "spectral", "allocation", "adapters", "training", "evaluation", "reporting", "tracking"}
LEVELS = [
    {"errors"},
    {"types", "bfloat16"},
    {"storage"},
    {"fingerprint", "schema", "machine", "hub", "configuration"},
    LEAVES,
    {"methods", "identity"},
    {"experiment", "run_folder"},
    {"stages"},
    {"pipeline", "option_faults", "option_help"},
    {"compose"},
    {"entry"},
    {"run", "analyze"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
ONLY = {
    "peft": {"adapters", "methods"},
    "lm_eval": {"evaluation"},
    "wandb": {"tracking"},
    "hydra": {"compose", "option_faults", "entry", "run", "analyze"},
    "huggingface_hub": {"hub"},
    "datasets": {"hub"},
}


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imports() -> list[tuple[Path, str]]:
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found += [(file, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.append((file, node.module))
    return found


def test_every_room_has_a_level() -> None:
    assert {room(file) for file in PACKAGE.rglob("*.py")} - {"__init__"} == set(LEVEL)


def test_imports_point_down_and_siblings_do_not_meet() -> None:
    wrong = []
    for file, module in imports():
        if module.startswith("spectral_ft."):
            here, there = room(file), module.split(".")[1]
            if here != there and LEVEL[there] >= LEVEL[here]:
                wrong.append(f"{file.relative_to(PACKAGE)} imports {module}")
    assert wrong == []


@pytest.mark.parametrize("library", ONLY)
def test_a_library_is_known_only_where_it_belongs(library: str) -> None:
    users = {room(file) for file, module in imports() if module.split(".")[0] == library}
    assert users and users <= ONLY[library]


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_costs_nothing() -> None:
    assert not loaded_by("import spectral_ft") & {"torch", "numpy", "pandas", "pydantic", "hydra"}


def test_the_spectral_stage_starts_without_torch() -> None:
    statement = "import spectral_ft.analyze, spectral_ft.compose, spectral_ft.stages.spectrum"
    assert not loaded_by(statement) & {"torch", "transformers", "peft", "lm_eval"}


def test_the_console_script_imports() -> None:
    from spectral_ft import cli

    for command in cli.COMMANDS:
        assert (PACKAGE / f"{command}.py").exists()
