"""Imports point down; oracle: the import statements themselves."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "spectral_ft"
LEAVES = {
    "models",
    "data",
    "spectral",
    "probe",
    "allocation",
    "adapters",
    "training",
    "evaluation",
    "reporting",
    "tracking",
    "wandb_records",
}
LEVELS = [
    {"errors", "processes", "spelling"},
    {"types", "bfloat16"},
    {"storage", "statistics"},
    {"fingerprint", "schema", "machine", "hub", "configuration", "end_marks"},
    {"identity"},
    {"run_folder"},
    LEAVES,
    {"methods"},
    {"experiment"},
    {"stages", "composition"},
    {"pipeline", "option_faults", "option_help"},
    {"compose"},
    {"sweep", "api"},
    {"entry"},
    {"run", "analyze", "compress", "extract", "plan", "evaluate", "export", "report"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
ONLY = {
    "peft": {"adapters", "methods", "probe"},
    "lm_eval": {"evaluation"},
    "wandb": {"tracking", "wandb_records"},
    "hydra": {
        "compose",
        "option_faults",
        "sweep",
        "entry",
        "run",
        "analyze",
        "compress",
        "extract",
        "plan",
        "evaluate",
    },
    "huggingface_hub": {"hub"},
    "datasets": {"hub"},
    "datasketch": {"data"},
    "jinja2": {"reporting"},
}


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


@cache
def imports(*, types_too: bool = True) -> list[tuple[Path, str]]:
    """Every import statement, inside of functions too; those for annotations alone load nothing when the code runs."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(file.read_text())
        for_types = {
            node
            for block in ast.walk(tree)
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
            for node in ast.walk(block)
        }
        for node in ast.walk(tree):
            if node in for_types and not types_too:
                continue
            if isinstance(node, ast.Import):
                found += [(file, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.append((file, node.module))
    return found


def test_every_room_has_a_level() -> None:
    assert {room(file) for file in PACKAGE.rglob("*.py")} - {"__init__"} == set(LEVEL)


def test_the_guide_draws_the_levels() -> None:
    guide = (PACKAGE.parent / "docs" / "guide.md").read_text()
    picture = next(block for block in guide.split("```") if "\ncli " in block)
    drawn = [set(line.split("  ")[0].split()) for line in picture.strip().splitlines()]
    assert drawn == LEVELS[::-1]


def test_no_module_needs_one_that_needs_it() -> None:
    modules = {".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts): file for file in PACKAGE.rglob("*.py")}
    needs: dict[str, set[str]] = {name.removesuffix(".__init__"): set() for name in modules}
    names = {file: name.removesuffix(".__init__") for name, file in modules.items()}
    for file, module in imports(types_too=False):
        if module in needs and module != names[file]:
            needs[names[file]].add(module)
    sorter = TopologicalSorter(needs)
    sorter.prepare()  # raises CycleError, which names the circle


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
    users = {room(file) for file, module in imports(types_too=False) if module.split(".")[0] == library}
    assert users and users <= ONLY[library]


def test_a_policy_sees_no_model() -> None:
    used = {module.split(".")[0] for file, module in imports() if room(file) == "allocation"}
    assert "numpy" in used and not used & {"torch", "transformers", "peft"}


def test_statistics_know_numbers_only() -> None:
    used = {module.split(".")[0] for file, module in imports() if room(file) == "statistics"}
    assert {"scipy", "statsmodels"} <= used and not used & {"torch", "transformers", "peft", "pydantic"}


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_costs_nothing() -> None:
    assert not loaded_by("import spectral_ft") & {"torch", "numpy", "pandas", "pydantic", "hydra"}


@pytest.mark.parametrize(
    "modules",
    [
        ["analyze", "compose", "stages.spectrum", "stages.updates", "reporting.update_table"],
        ["run", "sweep", "run_folder", "reporting.closing_table"],
        ["plan", "export", "stages.reading", "stages.allocation"],
        ["report", "reporting.result_table", "reporting.table_forms", "reporting.progress", "reporting.page"],
    ],
    ids=["spectra", "done", "plans", "records"],
)
def test_what_needs_no_model_starts_without_torch(modules: list[str]) -> None:
    statement = "; ".join(f"import spectral_ft.{module}" for module in modules)
    assert not loaded_by(statement) & {"torch", "transformers", "peft", "lm_eval"}


def test_the_face_for_scripts_costs_nothing() -> None:
    assert not loaded_by("import spectral_ft.api") & {"torch", "numpy", "pandas", "hydra", "peft"}


def test_the_console_script_imports() -> None:
    from spectral_ft import cli

    for command in cli.COMMANDS:
        assert (PACKAGE / f"{command}.py").exists()
