"""Tables as text for a terminal, of one width wherever they are read."""

from rich.console import Console
from rich.table import Table

from spectral_ft.spelling import printable

WIDTH = 136


def as_text(table: Table) -> str:
    """What a table looks like.

    Args:
        table: The table.

    Returns:
        Its lines, without colours, and without control characters of what stands in it.
    """
    console = Console(width=WIDTH, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return printable(capture.get())
