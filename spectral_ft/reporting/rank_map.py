"""An allocation plan as a map for a terminal: the rank of every matrix, by block and module type.

A matrix that a plan does not name is frozen.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import count, product
from string import ascii_lowercase

from spectral_ft.errors import PlanError
from spectral_ft.types import AllocationPlan, MatrixAllocation, MatrixShape

ROWS = 48
"""Of a rank map; a model of more blocks has several of them in a row."""
WIDTH = 120
"""Columns of a terminal; a rank map has more only where the ranks themselves need them."""
GAP = 2
"""Columns between two of a rank map."""
UNCUT = 3
"""Letters of a word that no heading cuts: `wi` and `wo` stay apart."""
MIXED = "*"
"""Instead of a letter, where the matrices of a cell are not all in one group."""
SIGNS = {
    "-": "0-8: lowest and highest rank of several matrices, 0 is frozen",
    "(": "(8): the adapter stays as it is, untrained",
    MIXED: f"{MIXED}: several matrices that are not all in one group",
}
"""What the signs in cells mean."""

Grid = dict[tuple[int, str], list[MatrixAllocation]]
"""(block, module type) to what its matrices get; several where they are experts."""


def plan_grid(plan: AllocationPlan, matrices: Sequence[MatrixShape]) -> Grid:
    """What the matrices of each block and module type get.

    Args:
        plan: Of the model.
        matrices: Of the model.

    Returns:
        The cells, in the order of the matrices; a cell without a matrix is not in it.

    Raises:
        PlanError: If the plan names a matrix that the model does not have.
    """
    given = {allocation.name: allocation for allocation in plan.allocations}
    if unknown := sorted(given.keys() - {matrix.name for matrix in matrices}):
        raise PlanError(
            f"the plan names {len(unknown)} matrices that this model of {len(matrices)} does not have, the first of "
            f"which is {unknown[0]}: show it with the model that it was made for."
        )
    grid: Grid = defaultdict(list)
    for matrix in matrices:
        frozen = MatrixAllocation(name=matrix.name, rank=0, lora_alpha=0.0)
        grid[matrix.block, matrix.type].append(given.get(matrix.name, frozen))
    return dict(grid)


def group_letters(plan: AllocationPlan) -> dict[str, str]:
    """A short name for each group.

    Args:
        plan: With or without groups.

    Returns:
        Group to a, b, ..., z, aa, ab, ..., in the plan's order.
    """
    groups = dict.fromkeys(allocation.group for allocation in plan.adapted if allocation.group is not None)
    letters = ("".join(word) for length in count(1) for word in product(ascii_lowercase, repeat=length))
    return dict(zip(groups, letters, strict=False))


def cell_text(members: Sequence[MatrixAllocation], letters: Mapping[str, str]) -> tuple[str, str]:
    """What a cell says.

    Args:
        members: What its matrices get, at least one.
        letters: Group to its letter.

    Returns:
        The rank, `.` where all are frozen, `0-8` from the lowest to the highest, in parentheses where the
        adapters stay as they are; and the letter of the group, empty without one.
    """
    adapted = [member for member in members if member.rank]
    if not adapted:
        return ".", ""
    low, high = (end(member.rank for member in members) for end in (min, max))
    text = str(high) if low == high else f"{low}-{high}"
    if all(member.lr_multiplier == 0 for member in adapted):
        text = f"({text})"
    marks = {"" if member.group is None else letters[member.group] for member in adapted}
    return text, marks.pop() if len(marks) == 1 else MIXED


def rank_map(plan: AllocationPlan, matrices: Sequence[MatrixShape]) -> str:
    """The rank of every matrix: a row a block, the highest on top, and a column a module type.

    Args:
        plan: Of the model.
        matrices: Of the model.

    Returns:
        Text for a terminal.

    Raises:
        PlanError: If the plan names a matrix that the model does not have.
    """
    grid, letters = plan_grid(plan, matrices), group_letters(plan)
    blocks = sorted({block for block, _ in grid})
    kinds = list(dict.fromkeys(kind for _, kind in grid))
    deep = -(-len(blocks) // ROWS)
    bands = [blocks[at : at + deep] for at in range(0, len(blocks), deep)][::-1]
    labels = [f"{band[0]}-{band[-1]}" if len(band) > 1 else str(band[0]) for band in bands]
    columns = []
    for kind in kinds:
        cells = [[member for block in band for member in grid.get((block, kind), ())] for band in bands]
        texts = [cell_text(members, letters) if members else ("", "") for members in cells]
        longest, mark = (max(len(text[part]) for text in texts) for part in (0, 1))
        columns.append([
            f"{text:>{longest}} {letter:<{mark}}" if mark else text.rjust(longest) for text, letter in texts
        ])
    margin = max(map(len, ["block", *labels]))
    headings = _headings(kinds, [len(column[0]) for column in columns], room=WIDTH - margin)
    headed = [["block", *labels], *([heading, *column] for heading, column in zip(headings, columns, strict=True))]
    padded = [[text.rjust(max(map(len, column))) for text in column] for column in headed]
    lines = ["rank by block and module type, . frozen"]
    lines += [(" " * GAP).join(row).rstrip() for row in zip(*padded, strict=True)]
    drawn = "".join(text for column in columns for text in column)
    lines += [meaning for sign, meaning in SIGNS.items() if sign in drawn]
    if short := {h: kind for h, kind in zip(headings, kinds, strict=True) if h != kind}:
        lines += ["types:", *_side_by_side([f"{heading} {kind}" for heading, kind in short.items()])]
    if letters:
        lines += ["groups, and what their matrices share:"]
        lines += _side_by_side([f"{letter} {_group(plan, group)}" for group, letter in letters.items()])
    return "\n".join(lines) + "\n"


def _headings(kinds: Sequence[str], widths: Sequence[int], *, room: int) -> list[str]:
    # Long words are cut to the most letters that fit and still tell the types apart; numbers, where none do.
    for letters in range(max(map(len, kinds)), 0, -1):
        long = rf"([A-Za-z]{{{letters}}})[A-Za-z]{{{max(0, UNCUT + 1 - letters)},}}"
        short = [re.sub(long, r"\1", kind) for kind in kinds]
        needed = sum(GAP + max(len(heading), width) for heading, width in zip(short, widths, strict=True))
        if needed <= room and len(set(short)) == len(kinds):
            return short
    return [str(number) for number in range(1, len(kinds) + 1)]


def _side_by_side(entries: Sequence[str]) -> list[str]:
    width = GAP + max(map(len, entries))
    a_line = max(1, WIDTH // width)
    lines = (entries[at : at + a_line] for at in range(0, len(entries), a_line))
    return ["".join(" " * GAP + entry.ljust(width - GAP) for entry in line).rstrip() for line in lines]


def _group(plan: AllocationPlan, group: str) -> str:
    members = [allocation for allocation in plan.adapted if allocation.group == group]
    return f"{group}: {len(members)} share {members[0].shares or 'nothing'}"
