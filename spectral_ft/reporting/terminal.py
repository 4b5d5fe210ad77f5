"""Tables as text for a terminal, of one width wherever they are read."""

from rich.console import Console
from rich.table import Table

WIDTH = 136


def as_text(table: Table) -> str:
    """What a table looks like.

    Args:
        table: The table.

    Returns:
        Its lines, without colours.
    """
    console = Console(width=WIDTH)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
