"""The report command; oracle: run folders with typed answers, and the tables that the parts give of them."""

import io
import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from spectral_ft import report
from spectral_ft.reporting.records import planned_jobs, run_folders
from spectral_ft.reporting.result_table import result_table
from spectral_ft.reporting.table_cells import cell_notes
from spectral_ft.reporting.table_forms import FORMS
from tests.conftest import Called, call_entry
from tests.reporting.runs import write_record, write_sweep
from tests.reporting.test_result_table import write_arms


@pytest.fixture
def call(capfd):
    """Calls the command in this process."""

    def called(*arguments):
        capfd.readouterr()
        return Called(call_entry(report.main, *map(str, arguments)), *capfd.readouterr())

    return called


@pytest.fixture
def sweep(tmp_path):
    return write_arms(tmp_path / "sweep")


def expected(sweep, form, **options):
    return FORMS[form](result_table(run_folders([sweep]), planned_jobs([sweep]), **options))


@pytest.mark.parametrize("form", FORMS)
def test_a_table_is_printed_or_written(call, sweep, tmp_path, form):
    done = call(sweep, "--table", form, "--baseline", "weak")
    assert done.code == 0 and done.out == expected(sweep, form, baseline="weak")
    out = tmp_path / "new" / f"t.{form}"
    done = call(sweep, "--table", form, "--out", out)
    assert done.out == f"{out}\n" and out.read_text() == expected(sweep, form)


def test_notes_of_a_csv_are_beside_it(call, sweep):
    done = call(sweep, "--table", "csv")
    assert len(pd.read_csv(io.StringIO(done.out))) == 3
    for note in cell_notes(result_table(run_folders([sweep]), planned_jobs([sweep]))):
        assert note in done.err


def test_the_status_is_printed_and_a_table_may_follow(call, sweep):
    (sweep / "weak1" / "result.json").unlink()
    done = call(sweep, "--status", "--table", "md")
    assert "5 finished, 1 cut; about" in done.out and done.out.endswith(expected(sweep, "md"))


def test_a_sweep_that_has_not_begun_has_a_status(call, tmp_path):
    write_sweep(tmp_path, [("a", "x", 0), ("b", "x", 1)])
    assert "2 missing; how long" in call(tmp_path, "--status").out
    assert "0 of 2 (missing)" in call(tmp_path, "--table", "md").out


def test_without_options_the_page_is_written(call, sweep, monkeypatch, tmp_path):
    seen = []
    page = ModuleType("spectral_ft.reporting.page")
    page.write_page = lambda runs, plan, path: seen.append((runs, plan, path)) or path
    monkeypatch.setitem(sys.modules, "spectral_ft.reporting.page", page)
    assert call(sweep).out == f"{sweep / 'report.html'}\n"
    assert seen[0] == (run_folders([sweep]), planned_jobs([sweep]), sweep / "report.html")
    assert call(sweep, "--out", tmp_path / "p.html").out == f"{tmp_path / 'p.html'}\n"


def test_several_folders_are_one_table_and_none_counts_twice(call, tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        answers = {"aqua": {"tuned": (rng.random(20) < 0.5).astype(float)}}
        write_record(tmp_path / name, answers, run_id=name, seed="ab".index(name))
    done = call(tmp_path / "a", tmp_path / "b", tmp_path, "--table", "csv")
    assert pd.read_csv(io.StringIO(done.out))["runs"].tolist() == [2]


def test_runs_of_wandb_stand_in_the_same_table(call, sweep, monkeypatch):
    from spectral_ft import wandb_records
    from spectral_ft.wandb_records import MirroredRun

    remote = MirroredRun("wandb:t/p/x", "x", "crashed", {"seed": 4, "tracking": {"arm": "weak"}}, None, 0.0)
    monkeypatch.setattr(wandb_records, "read_project", lambda named: [remote] if named == "t/p" else [])
    done = call(sweep, "wandb:t/p", "--table", "md")
    assert done.code == 0 and "| 2 of 3 (failed)" in " ".join(done.out.split())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "the following arguments are required: FOLDER"),
        (("{empty}", "--status"), "empty holds no run: no result.json"),
        (("{sweep}", "{empty}", "--table", "md"), "empty holds no run: no result.json"),
        (("{empty}/none",), "none does not exist or is no folder"),
        (("{sweep}", "--tabel", "md"), "unrecognized arguments: --tabel md"),
        (("{sweep}", "--table", "pdf"), "invalid choice: 'pdf'"),
        (("{sweep}", "--baseline", "weak"), "--baseline is for a table"),
        (("{sweep}", "--mix"), "--mix is for a table"),
        (("{sweep}", "--status", "--out", "x"), "--out is for a table or the page"),
        (("{sweep}", "--table", "md", "--out", "{empty}"), "empty is a folder: give a file"),
        (("{sweep}", "--table", "md", "--baseline", "lora"), "--baseline lora is no row"),
        (("{sweep}", "{other}", "--table", "md"), "aqua was scored on 80 and on 4 items"),
        (("wandb:project", "--status"), "names no W&B project"),
    ],
)
def test_what_cannot_be_is_one_sentence(call, sweep, tmp_path, arguments, sentence):
    (tmp_path / "empty").mkdir()
    write_record(tmp_path / "other", run_id="other")
    places = {name: tmp_path / name for name in ("empty", "sweep", "other")}
    done = call(*(argument.format(**places) for argument in arguments))
    assert done.code == 1 and done.out == "" and "Traceback" not in done.err
    said = done.err.splitlines()[-1]
    assert said.startswith("error: ") and sentence in said


def test_help_names_every_option(call):
    done = call("--help")
    assert done.code == 0
    for option in ("--table", "--status", "--baseline", "--mix", "--out", "wandb:ENTITY/PROJECT"):
        assert option in done.out
