"""Tables of results as Markdown, LaTeX and CSV."""

from collections.abc import Callable

import pandas as pd

from spectral_ft.reporting.result_table import ResultTable
from spectral_ft.reporting.table_cells import CellTable, CellText, cell_notes, cell_tables
from spectral_ft.storage import csv_text

LATEX = str.maketrans({
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
})
"""Characters that mean something to LaTeX, or are others in its old font encoding."""
MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>|&$~#"} | {"\n": " "})


def markdown(table: ResultTable) -> str:
    """A table as Markdown, with what is to be said of it below.

    Args:
        table: The table.

    Returns:
        Pipe tables as GitHub renders them, and a list of notes.
    """
    parts = []
    for cells in cell_tables(table):
        shown = _frame(cells, lambda cell: f"**{markdown_text(cell.text)}**" if cell.best else markdown_text(cell.text))
        shown.columns = [markdown_text(heading) for heading in cells.headings]
        align = ["left", *["right"] * (len(cells.headings) - 1)]
        text = shown.to_markdown(index=False, disable_numparse=True, colalign=align)
        parts.append(f"### {markdown_text(cells.title)}\n\n{text}")
    notes = [f"- {markdown_text(note)}" for note in cell_notes(table)]
    return "\n\n".join([*parts, "\n".join(notes)]).rstrip() + "\n"


def latex(table: ResultTable) -> str:
    r"""A table as LaTeX, for a document with `\usepackage{booktabs}`.

    Args:
        table: The table.

    Returns:
        One `table` environment each, the notes below the first.
    """
    parts = []
    for number, cells in enumerate(cell_tables(table)):
        shown = _frame(
            cells, lambda cell: rf"\textbf{{{latex_text(cell.text)}}}" if cell.best else latex_text(cell.text)
        )
        shown.columns = [latex_text(heading) for heading in cells.headings]
        columns = "l" + "r" * (len(cells.headings) - 1)
        tabular = shown.style.hide(axis="index").to_latex(hrules=True, column_format=columns).rstrip()
        notes = cell_notes(table) if number == 0 else []
        below = "\n".join(rf"\par {latex_text(note)}" for note in notes)
        caption = rf"\caption{{{latex_text(cells.title)}}}"
        small = f"\n\\begin{{flushleft}}\\footnotesize\n{below}\n\\end{{flushleft}}" if notes else ""
        parts.append(f"\\begin{{table}}\n\\centering\n{caption}\n{tabular}{small}\n\\end{{table}}\n")
    return "\n".join(parts)


def csv(table: ResultTable) -> str:
    """The numbers of a table as CSV, which `pandas.read_csv` reads back as `ResultTable.frame` gives them.

    Args:
        table: The table.

    Returns:
        The text; a text that a spreadsheet would run has an apostrophe before it.
    """
    return csv_text(table.frame(), index=False)


FORMS = {"md": markdown, "tex": latex, "csv": csv}
"""What `--table` takes."""


def _frame(cells: CellTable, written: Callable[[CellText], str]) -> pd.DataFrame:
    return pd.DataFrame([[written(cell) for cell in row] for row in cells.rows], columns=list(cells.headings))


def markdown_text(text: str) -> str:
    """A text that Markdown shows as it is.

    Args:
        text: One line.

    Returns:
        With every character escaped that means something in a table, list or heading.
    """
    return text.translate(MARKDOWN)


def latex_text(text: str) -> str:
    """A text that LaTeX sets as it is.

    Args:
        text: One line.

    Returns:
        With every character escaped that means something to LaTeX, at the beginning of a row too.
    """
    return ("{}" if text.startswith(("[", "*")) else "") + text.translate(LATEX)
