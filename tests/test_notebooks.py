"""The notebooks; oracle: a Jupyter kernel that executes them in an empty folder, their JSON and their syntax trees."""

import ast
import json
import resource
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

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


def cpu_seconds() -> float:
    """That processes have taken which this one started and which have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
