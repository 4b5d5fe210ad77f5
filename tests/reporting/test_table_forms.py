"""Tables as Markdown, LaTeX and CSV; oracles: a Markdown parser, pandas' reader and escapes, a TeX where one is."""

import io
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from spectral_ft.reporting.records import planned_jobs, run_folders
from spectral_ft.reporting.result_table import result_table
from spectral_ft.reporting.table_cells import cell_notes, cell_tables, duration
from spectral_ft.reporting.table_forms import csv, latex, latex_text, markdown, markdown_text
from tests.reporting.runs import LORA, write_record
from tests.reporting.test_result_table import MIDDLE, STRONG, WEAK, write_arms

NASTY = {"arithmetic/lora": STRONG, r"50%_of $x$ & #1 {a} ~^ <b>*_[c]|`d`\e": WEAK}
"""Arms, of which one has everything that means something to a form."""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = write_arms(tmp_path_factory.mktemp("sweep"), NASTY)
    (folder / "arithmetic" / "lora1" / "result.json").unlink()
    return result_table(run_folders([folder]), planned_jobs([folder]), baseline="arithmetic/lora")


class Cells(HTMLParser):
    """The tables of a page as rows of text."""

    def __init__(self, html):
        super().__init__()
        self.tables, self._cell, self.bold = [], None, set()
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self._cell = ""
        elif tag == "strong" and self._cell is not None:
            self._cell += "BOLD:"

    def handle_endtag(self, tag):
        if tag in {"td", "th"}:
            self.tables[-1][-1].append(self._cell)
            self._cell = None

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data


def rendered(text):
    return Cells(MarkdownIt("commonmark").enable("table").render(text))


def expected(cells):
    body = [[("BOLD:" if cell.best else "") + cell.text for cell in row] for row in cells.rows]
    return [list(cells.headings), *body]


def test_markdown_renders_to_the_cells(table):
    found = rendered(markdown(table)).tables
    assert found == [expected(cells) for cells in cell_tables(table)] and len(found) == 2
    assert found[0][0][:4] == ["arm", "runs", "aqua", "aqua, published"]
    (row,) = [row for row in found[0] if row[0] == "arithmetic/lora"]
    assert (
        row[1] == "1 of 2 (cut)"
        and {"18.9", "79.0"} <= set(row)
        and row[2].startswith(f"BOLD:{100 * STRONG[0].mean():.1f} [")
    )


def test_the_best_is_bold_in_every_form(tmp_path):
    folder = write_arms(tmp_path)
    found = result_table(run_folders([folder]), planned_jobs([folder]))
    (cells,) = rendered(markdown(found)).tables
    assert [row[2].startswith("BOLD:") for row in cells[1:]] == [True, False, False]
    assert latex(found).count(r"\textbf{") == 1 and rf"\textbf{{{100 * STRONG.mean():.1f} [" in latex(found)
    assert csv(found).count("True") == 1
    assert any("bold" in note for note in cell_notes(found))


def test_notes_are_below_and_tell_metrics_sources_and_reasons(table):
    notes = cell_notes(table)
    text = MarkdownIt().render(markdown(table))
    assert text.count("<li>") == len(notes)
    assert any(note == "metrics: aqua: exact_match (strict)." for note in notes)
    assert any(note.startswith("arithmetic/lora, cut, seed 1: ") for note in notes)
    assert any("arXiv:2304.01933" in note for note in notes)


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Z"]), max_size=30))
def test_any_text_survives_markdown(text):
    said = " ".join(text.split())
    (found,) = rendered(f"| {markdown_text('x' + said)} |\n|---|\n| {markdown_text('x' + said)} |").tables
    assert found == [["x" + said], ["x" + said]]


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), max_size=30))
def test_latex_escapes_are_those_of_pandas(text):
    ours = latex_text(text).removeprefix("{}")  # which keeps [ and * from being an option of the line break before
    style = pd.DataFrame({"x": [text]}).style.format(escape="latex").hide(axis="index").to_latex()
    theirs = style.split("\\\\\n")[1].split(" \\\\")[0] if text else ""
    signs = {r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|"}
    for ours_has, theirs_has in signs.items():
        ours = ours.replace(ours_has, theirs_has)
    names = {r"\textasciitilde{}": r"\textasciitilde ", r"\textasciicircum{}": r"\textasciicircum "}
    for ours_has, theirs_has in (names | {r"\textbackslash{}": r"\textbackslash "}).items():
        ours = ours.replace(ours_has, theirs_has)
    assert ours.split() == theirs.split()


def test_a_row_that_begins_like_an_option_is_none():
    assert latex_text("[a]") == "{}[a]" and latex_text("*") == "{}*" and latex_text("a[*]") == "a[*]"


def test_latex_has_whole_environments_and_rows(table):
    text = latex(table)
    begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", text) for word in ("begin", "end"))
    assert sorted(begun) == sorted(ended) and begun.count("table") == 2 and begun.count("tabular") == 2
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(rf"\{rule}") == 2
    for cells, part in zip(cell_tables(table), text.split(r"\end{tabular}"), strict=False):
        columns = re.search(r"\\begin{tabular}{(\w+)}", part)[1]
        rows = [line for line in part.splitlines() if line.endswith(r"\\")]
        assert len(columns) == len(cells.headings) and len(rows) == 1 + len(cells.rows)
        assert all(len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1 for row in rows)
    bare = re.sub(r"\\[&%$#_{}]", "", text)
    assert bare.count("{") == bare.count("}") and not set("$#%^~") & set(bare)


def test_latex_compiles(table, tmp_path):
    tex = next((name for name in ("pdflatex", "tectonic") if shutil.which(name)), None)
    if tex is None:
        pytest.skip("neither pdflatex nor tectonic is installed")
    document = "\\documentclass[a4paper]{article}\n\\usepackage{booktabs}\n\\begin{document}\n%s\\end{document}\n"
    (tmp_path / "t.tex").write_text(document % latex(table))
    options = ["-interaction=nonstopmode", "-halt-on-error"] if tex == "pdflatex" else []
    done = subprocess.run([tex, *options, "t.tex"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and (tmp_path / "t.pdf").stat().st_size > 1000, done.stdout[-2000:]


def test_csv_round_trips_through_pandas(table):
    frame = table.frame()
    back = pd.read_csv(io.StringIO(csv(table)), dtype=frame.dtypes.to_dict(), float_precision="round_trip")
    pd.testing.assert_frame_equal(back, frame, check_exact=True)


def test_averages_are_over_all_tasks_or_not_there(tmp_path):
    one = write_arms(tmp_path / "one", {"arithmetic/lora": MIDDLE})
    cells, *_ = cell_tables(result_table(run_folders([one]), planned_jobs([one])))
    found = dict(zip(cells.headings, (cell.text for cell in cells.rows[0]), strict=True))
    assert (
        found["average, published"] == "46.9" and "average" not in found
    )  # as the paper has it; one task was measured

    answers = {"aqua": {"tuned": STRONG[0]}, "gsm8k": {"tuned": WEAK[0]}}
    write_record(tmp_path / "two" / "a", answers, run_id="a", options={**LORA, "method.name": "both"})
    write_record(tmp_path / "two" / "b", {"aqua": {"tuned": STRONG[0]}}, run_id="b")
    cells, *_ = cell_tables(result_table(run_folders([tmp_path / "two"]), None))
    average = {row[0].text: row[cells.headings.index("average")].text for row in cells.rows}
    mean = (STRONG[0].mean() + WEAK[0].mean()) / 2
    assert average == {"both/uniform": f"{100 * mean:.1f}", "lora/uniform": "-"}


@pytest.mark.parametrize(("seconds", "text"), [(3, "3 s"), (119, "119 s"), (150, "2.5 min"), (9000, "2.5 h")])
def test_times_are_in_the_unit_that_suits_them(seconds, text):
    assert duration(seconds) == text
