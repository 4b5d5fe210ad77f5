"""Which benchmark exists in which protocol from which source, as a table."""

from collections.abc import Iterable

from spectral_ft.evaluation.task import Task, TaskProtocol, TaskSource

COLUMNS: tuple[tuple[str, TaskProtocol, TaskSource], ...] = (
    ("`standard`, hub", "standard", "hub"),
    ("`standard`, local raw", "standard", "raw"),
    ("`paper`, local raw", "paper", "raw"),
    ("`paper`, LLM-Adapters' files", "paper", "copy"),
    ("generated", "standard", "generated"),
)
"""Headings, and what they ask of a task."""


def protocol_table(tasks: Iterable[Task]) -> str:
    """The table, in Markdown.

    Args:
        tasks: One a row, in this order.

    Returns:
        A line a task: its name, its folders below `benchmark.data_dir`, the items of the published test file, and for
        each protocol and source whether it exists; an empty cell is refused.
    """
    headings = ["benchmark", "folders", "items", *(heading for heading, _, _ in COLUMNS)]
    lines = [headings, ["---"] * len(headings)]
    for task in tasks:
        cells = ["yes" if source in task.sources and task.has(how, source) else "" for _, how, source in COLUMNS]
        lines.append([task.name, ", ".join(task.folders or []), f"{task.size:,}" if task.size else "", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
