"""The notebooks; oracle: a Jupyter kernel that executes them in an empty folder, their JSON and their syntax trees."""

import ast
import json
import resource
from pathlib import Path

import pytest

from spectral_ft.compose import build_experiment, composed
from spectral_ft.experiment import Experiment
from spectral_ft.run_folder import mark_started
from spectral_ft.storage import write_json, write_report
from spectral_ft.types import AllocationPlan, MatrixAllocation
from tests.conftest import REPOSITORY
from tests.oracles import report
from tests.reporting.runs import LORA, write_record

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
CPU_SECONDS = 120.0
"""Of a notebook on one core."""
BODY = 3
"""Lines of the longest function that a notebook may define."""
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_there_are_three_and_their_readme_names_each() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["01_spectra", "02_allocation", "03_results"]
    readme = (REPOSITORY / "notebooks" / "README.md").read_text()
    assert all(path.name in readme for path in NOTEBOOKS)


@each_notebook
def test_outputs_are_stripped(path: Path) -> None:
    cells = code_cells(path)
    assert len(cells) >= 5
    assert [cell for cell in cells if cell["outputs"] or cell["execution_count"] is not None] == []
    assert set(json.loads(path.read_text())["metadata"]) == {"kernelspec", "language_info"}


@each_notebook
def test_nothing_worth_importing_is_defined(path: Path) -> None:
    for cell in code_cells(path):
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            assert not isinstance(node, ast.ClassDef)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None and node.end_lineno - node.lineno < BODY, node.name


@each_notebook
def test_code_and_prose_take_turns(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    assert cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# ")
    assert sum(cell["cell_type"] == "markdown" for cell in cells) >= 4


@each_notebook
def test_it_runs_on_embedded_data(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="the notebooks extra is not installed")
    nbclient = pytest.importorskip("nbclient", reason="the notebooks extra is not installed")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))  # the kernel's folder is another one
    notebook = nbformat.read(path, as_version=4)
    before = cpu_seconds()
    nbclient.NotebookClient(
        notebook, timeout=250, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    took = cpu_seconds() - before
    assert 1 < took < CPU_SECONDS  # of the kernel and the commands that it called; wall time depends on the neighbours
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    kinds = {kind for output in shown for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= kinds  # figures and tables
    assert not [output for output in shown if output.get("name") == "stderr" and "Warning" in output["text"]]


def cells(name: str, count: int, **changed: object) -> dict:
    """What the first code cells of a notebook leave; an assignment of the first may be another."""
    path = REPOSITORY / "notebooks" / f"{name}.ipynb"
    left: dict = {}
    for cell in code_cells(path)[:count]:
        lines = ast.parse("".join(cell["source"])).body
        for line in lines:
            if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) in changed:
                line.value = ast.Constant(changed[ast.unparse(line.targets[0])])
        exec("\n".join(map(ast.unparse, lines)), left)
    return left


def jobs_of(command: list[str]) -> dict[str, Experiment]:
    """The jobs of a sweep over one option: its value to what Hydra makes of it."""
    words = [word for word in command[command.index("-m", 2) + 2 :] if not word.startswith("hydra.")]
    option, _, values = command[command.index("-m", 2) + 1].partition("=")
    return {value: build_experiment(composed([f"{option}={value}", *words])) for value in values.split(",")}


def test_plans_of_another_budget_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(command: list[str], **_: object) -> None:
        """Leave plans whose count is their budget, and one report."""
        for one in jobs_of(command).values():
            folder = Path("runs/02_allocation") / one.run_id
            count = int(1000 * one.config["budget"]["value"])
            write_json(folder / "plan.json", AllocationPlan((MatrixAllocation("0.q", 1, 2.0),), count, count, count))
            mark_started(folder, one.run_id, one.config)
        write_report(folder / "spectrum.parquet", report({f"{count}.q": 1.0}))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("subprocess.run", plan)
    for budget in (1.5, 4.0, 1.5):
        left = cells("02_allocation", 2, BUDGET=budget)
        assert {policy: plan.trainable_parameters for policy, plan in left["plans"].items()} == dict.fromkeys(
            left["POLICIES"], 1000 * budget
        )
        assert [matrix.block for matrix in left["matrices"]] == [1000 * budget]


def test_runs_of_other_options_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: object) -> None:
        """Leave the records of the sweep, and one of an older sweep."""
        for run_id, arm in [*((one.run_id, arm) for arm, one in jobs_of(command).items()), ("older", "tiny/older")]:
            options = {**LORA, "tracking.arm": arm}
            write_record(Path("runs/03_results") / run_id, run_id=run_id, options=options)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("subprocess.run", run)
    left = cells("03_results", 1)
    assert {name: result.config["tracking"]["arm"] for name, result in left["results"].items()} == {
        "tiny/uniform": "tiny/uniform",
        "tiny/spectral": "tiny/spectral",
    }


def cpu_seconds() -> float:
    """That processes have taken which this one started and which have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
